//! What the reader of the guide has: a replica set with authentication, an agent, a shell, and a folder for backups.

use super::pages::Call;
use super::{compare, mongosh};
use crate::support::cluster::{Folder, Options, PASSWORD, ReplicaSet, USER};
use crate::support::programs::{Agent, Programs};
use crate::support::wait;
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{Document, doc};
use mongodb::{Client, options::ClientOptions};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// The member and the folder of the storages in the guide.
const HOST: &str = "db1.example.net:27017";
const STORE: &str = "/srv/";
/// When the guide begins, in its own time.
const BEGINNING: &str = "2026-03-01T10:20:00Z";
/// Lines on stderr that show how far an operation is. Which of them appear depends on how fast it is.
const PROGRESS: [&str; 4] = ["backup: ", "restore: ", "replay: ", "resync: "];

pub struct Session {
    shell: Shell,
    /// Times of the guide, mostly names of backups, and what they are here.
    names: BTreeMap<String, String>,
    /// From the guide's times to those of now.
    shift: SignedDuration,
    root: Client,
    agent: Option<Agent>,
    programs: Programs,
    set: ReplicaSet,
    store: Folder,
    home: Folder,
}

impl Session {
    /// A replica set without the user that the guide creates.
    pub async fn start() -> Self {
        let set = ReplicaSet::start(Options { auth: true, ..Options::default() }).await;
        let password = PASSWORD.replace(' ', "%20").replace('/', "%2F");
        let uri = format!("mongodb://root:{password}@{}/?replicaSet=rs0&authSource=admin", set.address_of(0));
        let root =
            Client::with_options(ClientOptions::parse(uri).await.expect("a connection string")).expect("a client");
        let admin = root.database("admin");
        admin.run_command(doc! { "dropUser": USER }).await.expect("drop the user of the other tests");
        admin.run_command(doc! { "dropRole": "pbmAnyAction" }).await.expect("drop the role of the other tests");
        let programs = Programs::new();
        let home = Folder::new("guide");
        let beginning: Timestamp = BEGINNING.parse().expect("a time");
        Self {
            shell: Shell::start(&programs, &home),
            names: BTreeMap::new(),
            shift: Timestamp::now().duration_since(beginning),
            root,
            agent: None,
            programs,
            set,
            store: Folder::new("guide-store"),
            home,
        }
    }

    /// Does what a comment of the guide asks for:
    /// `agent` starts the agent with the guide's user; `until COMMAND` repeats a command until it succeeds; `moment TIME`
    /// waits for the next full second, which is TIME from here on.
    pub async fn prepare(&mut self, words: &str) {
        let (what, rest) = words.split_once(' ').unwrap_or((words, ""));
        match what {
            "agent" => {
                let uri = format!("mongodb://pbm:secret@{}", self.set.address_of(0));
                self.agent = Some(Agent::start(&self.programs, &uri));
                let agents = self.root.database("admin").collection::<Document>("pbmAgents");
                wait::until("the agent's line", LIMIT, async || agents.find_one(doc! {}).await.ok().flatten()).await;
            }
            "until" => {
                let command = self.replace_examples(rest);
                let shell = &mut self.shell;
                wait::until(&command, LIMIT, async || (shell.run(&command).1 == 0).then_some(())).await;
            }
            "moment" => {
                let moment = Timestamp::now().as_second() + 1;
                wait::until("the next second", LIMIT, async || (Timestamp::now().as_second() >= moment).then_some(()))
                    .await;
                let real = Timestamp::from_second(moment).expect("a time").to_string();
                self.names.insert(rest.to_owned(), real.trim_end_matches('Z').to_owned());
            }
            _ => panic!("unknown preparation in the guide: {words}"),
        }
    }

    /// Writes a file of the guide into the folder in which its commands run.
    pub fn write(&self, name: &str, lines: &[String]) {
        fs::write(self.home.path().join(name), self.replace_examples(&lines.join("\n"))).expect(name);
    }

    pub async fn mongosh(&self, text: &str) -> Vec<String> {
        let mut printed = Vec::new();
        for statement in mongosh::read_statements(text) {
            printed.extend(statement.run(&self.root).await.lines().map(str::to_owned));
        }
        printed
    }

    /// Runs a command of the guide. Returns how its output differs from what the guide shows, which is corrected then.
    pub async fn call(&mut self, call: &mut Call) -> Option<String> {
        let command = self.replace_examples(&call.command.join("\n"));
        let printed =
            if let Some((_, script)) = command.strip_prefix("mongosh ").and_then(|it| it.split_once("--eval '")) {
                self.mongosh(script.trim_end_matches('\'')).await
            } else {
                let (printed, code) = self.shell.run(&command);
                assert!(code == 0 || call.may_fail, "exit code {code} of: {command}\n{}", printed.join("\n"));
                printed
            };
        let confused = self.bind_names(&call.output, &printed);
        let printed: Vec<String> = printed.iter().map(|line| self.restore_examples(line, &command)).collect();
        if compare::matches_shown(&call.output, &printed) {
            return confused.map(|backup| format!("{command}\nthe guide shows {backup}, which is another backup\n"));
        }
        let difference = format!(
            "{}\nthe guide shows:\n{}\nprinted:\n{}\n",
            call.command.join("\n"),
            call.output.join("\n"),
            printed.join("\n")
        );
        call.output = printed;
        Some(difference)
    }

    /// Which times of the guide are which times here: those in lines that are the same otherwise. Returns a backup of the
    /// guide that is another one here.
    fn bind_names(&mut self, shown: &[String], printed: &[String]) -> Option<String> {
        let (mut rest, mut confused) = (printed, None);
        for line in shown {
            let Some(at) = rest
                .iter()
                .position(|it| compare::normalized(line) == compare::normalized(&self.restore_examples(it, "")))
            else {
                continue;
            };
            for (ours, theirs) in compare::find_times(line).into_iter().zip(compare::find_times(&rest[at])) {
                if ours.ends_with('Z') {
                    let known = self.names.entry(ours.to_owned()).or_insert_with(|| theirs.to_owned());
                    let is_backup = ["backup ", "backup '"].iter().any(|it| line.contains(&format!("{it}{ours}")));
                    if is_backup && known != theirs {
                        confused = Some(ours.to_owned());
                    }
                }
            }
            rest = &rest[at + 1..];
        }
        confused
    }

    /// The folder that is `/srv/` in the guide.
    fn stores(&self) -> String {
        format!("{}/", self.store.path().display())
    }

    /// A text of the guide with what is here in place of its examples.
    fn replace_examples(&self, text: &str) -> String {
        let text = text.replace(HOST, &self.set.address_of(0)).replace(STORE, &self.stores());
        self.names.iter().fold(text, |text, (guide, here)| text.replace(guide, here))
    }

    /// What a command printed here as the guide shows it.
    fn restore_examples(&self, line: &str, command: &str) -> String {
        let mut line = line.replace(&self.set.address_of(0), HOST).replace(&self.stores(), STORE);
        let times: Vec<String> = compare::find_times(&line).into_iter().map(str::to_owned).collect();
        for time in times {
            match self.names.iter().find(|(_, here)| **here == time) {
                Some((guide, _)) => line = line.replace(&time, guide),
                None if command.contains(time.trim_end_matches('Z')) => {}
                None => line = line.replace(&time, &self.shift_time(&time)),
            }
        }
        line
    }

    fn shift_time(&self, time: &str) -> String {
        let (whole, rest) = time.split_at(19);
        let here: Timestamp = format!("{whole}Z").parse().expect("a time");
        format!(
            "{}{rest}",
            (here - self.shift).round(jiff::Unit::Second).expect("a time").to_string().trim_end_matches('Z')
        )
    }
}

/// One bash for all commands, so that variables stay.
struct Shell {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

const MARK: &str = "--- end of the command, exit code ";

impl Shell {
    fn start(programs: &Programs, home: &Folder) -> Self {
        let folder = programs.path("pbm").parent().expect("a folder").display().to_string();
        let mut process = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .env_clear()
            .env("PATH", format!("{folder}:/usr/bin:/bin"))
            .env("HOME", home.path())
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start bash");
        let (into, lines) = channel();
        let output = BufReader::new(process.stdout.take().expect("its output"));
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| into.send(line)));
        Self { input: process.stdin.take().expect("its input"), process, lines }
    }

    /// What a command prints, and its exit code.
    fn run(&mut self, command: &str) -> (Vec<String>, i32) {
        let script =
            format!("{{ {command}\n}} </dev/null 2>&1; code=$?; printf '\\n{MARK}%d\\n' $code; (exit $code)\n");
        self.input.write_all(script.as_bytes()).expect("write to bash");
        let mut printed: Vec<String> = Vec::new();
        loop {
            let line = self
                .lines
                .recv_timeout(LIMIT)
                .unwrap_or_else(|e| panic!("{e} after {LIMIT:?}: {command}\n{printed:?}"));
            if let Some(code) = line.strip_prefix(MARK) {
                // The line break before the mark ends an empty line, or the last one.
                if printed.last().is_some_and(String::is_empty) {
                    printed.pop();
                }
                printed.retain(|line| !PROGRESS.iter().any(|it| line.starts_with(it)));
                return (printed, code.parse().expect("an exit code"));
            }
            printed.push(line.trim_end().to_owned());
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
