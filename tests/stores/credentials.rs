//! Where AWS's usual chain finds credentials, through a real agent: its heartbeat says that the storage is good only when a
//! store that verifies signatures has accepted what was found.

use super::s3_with;
use crate::support::cluster::{Folder, Options};
use crate::support::objects::{Fault, KEY, ObjectServer, SECRET};
use crate::support::programs::{Agent, Sandbox};
use crate::support::wait;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mongodb::bson::{Document, doc};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The services that give credentials, on one port: ECS's, IMDSv2's, and STS.
struct Services {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Services {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Services {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let seen = Arc::clone(&seen);
                let answer = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                    seen.lock().expect("requests").push(format!("{} {}", request.method(), request.uri().path()));
                    std::future::ready(answer(&request))
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
            }
        });
        Self { endpoint, asked, task }
    }

    fn count(&self, what: &str) -> usize {
        self.asked.lock().expect("requests").iter().filter(|it| it.starts_with(what)).count()
    }
}

const TOKEN: &str = "metadata-token";

fn answer(request: &http::Request<Incoming>) -> Result<http::Response<Full<bytes::Bytes>>, http::Error> {
    const ROLE: &str = "/latest/meta-data/iam/security-credentials/";
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let keys = format!(
        "\"AccessKeyId\":\"{KEY}\",\"SecretAccessKey\":\"{SECRET}\",\"Token\":\"session\",\"Expiration\":\"{soon:.0}\""
    );
    let has_token = request.headers().get("x-aws-ec2-metadata-token").is_some_and(|it| it == TOKEN);
    let (status, body) = match (request.method().as_str(), request.uri().path()) {
        ("GET", "/ecs") => (200, format!("{{{keys}}}")),
        ("PUT", "/latest/api/token") => (200, TOKEN.to_owned()),
        ("GET", path) if path.starts_with(ROLE) && !has_token => (401, String::new()),
        ("GET", ROLE) => (200, "backup-role".to_owned()),
        ("GET", path) if path.starts_with(ROLE) => {
            (200, format!("{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",{keys}}}"))
        }
        ("POST", "/") => (
            200,
            format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{KEY}</AccessKeyId>\
                 <SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>session</SessionToken>\
                 <Expiration>{soon:.0}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>"
            ),
        ),
        _ => (404, String::new()),
    };
    let head = http::Response::builder().status(status).header("x-aws-ec2-metadata-token-ttl-seconds", "21600");
    head.body(Full::new(body.into()))
}

/// What it is called, an agent's environment, and the request by which its service is asked.
type Way<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str);

/// One agent after another on the same replica set, each with other surroundings.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_found_and_renewed() {
    let (server, services) = (ObjectServer::start().await, Services::start().await);
    let folder = Folder::new("aws");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        path.display().to_string()
    };
    let shared = file("credentials", &format!("[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"));
    let given =
        file("given.json", &format!("{{\"Version\":1,\"AccessKeyId\":\"{KEY}\",\"SecretAccessKey\":\"{SECRET}\"}}"));
    let process = file("config", &format!("[default]\ncredential_process = cat {given}\n"));
    let (ecs, sts) = (format!("{}/ecs", services.endpoint), services.endpoint.clone());
    let ways: [Way<'_>; 6] = [
        ("environment", vec![("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)], ""),
        ("shared file", vec![("AWS_SHARED_CREDENTIALS_FILE", &shared)], ""),
        ("process", vec![("AWS_CONFIG_FILE", &process)], ""),
        ("IMDSv2", vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", &services.endpoint)], "PUT /latest/api/token"),
        (
            "web identity",
            vec![
                ("AWS_WEB_IDENTITY_TOKEN_FILE", &given),
                ("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup"),
                ("AWS_ENDPOINT_URL_STS", &sts),
            ],
            "POST /",
        ),
        ("ECS", vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", &ecs)], "GET /ecs"),
    ];
    let mut sandbox = Sandbox::unconfigured(Options::default()).await;
    let heartbeats = sandbox.set.client().await.database("admin").collection::<Document>("pbmAgents");
    for (way, environment, service) in ways {
        for agent in &mut sandbox.agents {
            assert!(agent.terminate().await.success(), "{way}");
        }
        heartbeats.delete_many(doc! {}).await.expect("forget the agents");
        let mut all: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.push(("HOME".to_owned(), folder.path().display().to_string()));
        if way != "IMDSv2" {
            all.push(("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()));
        }
        let before = services.count(service);
        sandbox.programs.environment = all;
        sandbox.agents = vec![Agent::start(&sandbox.programs, &sandbox.set.uri_of(0))];
        wait::until("the agent's line", Duration::from_secs(30), async || {
            (heartbeats.count_documents(doc! {}).await.expect("count") > 0).then_some(())
        })
        .await;
        sandbox.configure_with(&s3_with(&server, "", false), &[]).await;
        assert!(service.is_empty() || services.count(service) > before, "{way}: its service was not asked");
    }
    assert!(server.asked().iter().any(|it| it.headers.get("x-amz-security-token").is_some_and(|it| it == "session")));

    // The store calls them expired in the middle of an upload: they are asked for again, and the backup goes on.
    let mut left = 1;
    server.rule(move |asked| {
        let hit = left > 0 && asked.operation() == "PutObject" && asked.path.contains("/rs0/");
        left -= usize::from(hit);
        hit.then(|| Fault::error(400, "ExpiredToken"))
    });
    let before = services.count("GET /ecs");
    super::fill(&sandbox.set.client().await, 0, 100).await;
    sandbox.backup(&[]);
    assert!(services.count("GET /ecs") > before, "the same credentials again");
}
