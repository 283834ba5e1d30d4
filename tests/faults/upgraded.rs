//! The server changes under an agent that runs on.

use super::rig::Rig;
use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use mongodb::bson::doc;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_tells_the_feature_version_of_its_time() {
    let rig = Rig::bare(Sandbox::start(Options::default()).await).await;
    rig.fill(1).await;
    for fcv in ["5.0", "6.0"] {
        rig.admin().run_command(doc! { "setFeatureCompatibilityVersion": fcv }).await.expect("change the version");
        rig.next_backup_works();
        let meta = rig.newest("pbmBackups").await.expect("the backup");
        assert_eq!(meta.get_str("fcv").ok(), Some(fcv), "{meta}");
    }
}
