//! The examples at the end of every help of `pbm`, by the words of the subcommand.

/// See [`crate::cli::pages::with_examples`].
pub const PBM: &[(&str, &[&str])] = &[
    ("", &["pbm status --mongodb-uri 'mongodb://pbm:secret@host1:27017/?replicaSet=rs0'"]),
    (
        "config",
        &[
            "pbm config --file pbm.yaml --wait",
            "pbm config --set pitr.enabled=true",
            "pbm config --force-resync --wait",
        ],
    ),
    ("profile", &["pbm profile add archive archive.yaml --sync --wait", "pbm profile list"]),
    ("profile list", &["pbm profile list"]),
    ("profile show", &["pbm profile show archive"]),
    ("profile add", &["pbm profile add archive archive.yaml --sync --wait"]),
    ("profile remove", &["pbm profile remove archive --wait"]),
    ("profile sync", &["pbm profile sync archive --wait", "pbm profile sync --all --wait"]),
    ("backup", &["pbm backup --wait", "pbm backup --ns 'shop.*,crm.notes' --compression zstd --wait"]),
    ("cancel-backup", &["pbm cancel-backup"]),
    ("list", &["pbm list", "pbm list --restore"]),
    ("status", &["pbm status -s cluster,pitr", "pbm status --check --max-age 26h"]),
    ("doctor", &["pbm doctor"]),
    ("describe-backup", &["pbm describe-backup 2026-03-01T10:20:30Z --with-collections"]),
    (
        "restore",
        &[
            "pbm restore 2026-03-01T10:20:30Z --dry-run",
            "pbm restore --time 2026-03-01T10:20:30 --wait",
            "pbm restore 2026-03-01T10:20:30Z --ns shop.orders --wait",
        ],
    ),
    ("oplog-replay", &["pbm oplog-replay --start 2026-03-01T10:20:30 --end 2026-03-01T11:00:00 --wait"]),
    ("export", &["pbm export 2026-03-01T10:20:30Z --out backup.archive"]),
    (
        "serve",
        &[
            "pbm serve 2026-03-01T10:20:30Z --time 2026-03-01T11:30:00",
            "pbm serve 2026-03-01T10:20:30Z --ns shop.orders --exec 'mongosh --quiet --eval \"db.getSiblingDB(\\\"shop\\\").orders.countDocuments()\"'",
        ],
    ),
    ("describe-restore", &["pbm describe-restore 2026-03-01T10:20:30.123456789Z"]),
    ("delete-backup", &["pbm delete-backup 2026-03-01T10:20:30Z", "pbm delete-backup --older-than 30d --dry-run"]),
    ("delete-pitr", &["pbm delete-pitr --older-than 2w --dry-run"]),
    ("cleanup", &["pbm cleanup --older-than 30d --dry-run", "pbm cleanup --failed --wait"]),
    ("logs", &["pbm logs --tail 50", "pbm logs -e backup/2026-03-01T10:20:30Z -s D -t 0", "pbm logs -f"]),
    ("diagnostic", &["pbm diagnostic --path report --name 2026-03-01T10:20:30Z --archive"]),
    ("version", &["pbm version --short"]),
    ("completion", &["source <(pbm completion bash)"]),
];

/// Of `pbmctl`.
pub const CTL: &[(&str, &[&str])] = &[
    ("", &["pbmctl list backups"]),
    ("list", &["pbmctl list nodes"]),
    ("list nodes", &["pbmctl list nodes --verbose"]),
    ("list backups", &["pbmctl list backups"]),
    ("list storage", &["pbmctl list storage"]),
    ("run", &["pbmctl run backup --description nightly --storage main"]),
    ("run backup", &["pbmctl run backup --description nightly --storage main"]),
    ("run restore", &["pbmctl run restore 2026-03-01T10:20:30Z.json --storage main"]),
    ("version", &["pbmctl version"]),
    ("completion", &["source <(pbmctl completion bash)"]),
];

/// Of `pbm-speed-test`.
pub const SPEED_TEST: &[(&str, &[&str])] = &[
    ("", &["pbm-speed-test compression --compression zstd"]),
    ("compression", &["pbm-speed-test compression --compression zstd -c shop.orders"]),
    ("storage", &["pbm-speed-test storage --size-gb 10"]),
    ("version", &["pbm-speed-test version --short"]),
    ("completion", &["source <(pbm-speed-test completion bash)"]),
];
