//! An S3 store in this process: s3s-fs over a temporary folder, which verifies signatures, and faults on demand before it.
//! In the longer mode [`garage`] does the work behind the faults.

use super::garage::{self, Garage};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::{auth::SimpleAuth, host::MultiDomain, service::S3ServiceBuilder};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

pub const BUCKET: &str = "backups";
pub const KEY: &str = "GK31c2f218a2e44f485b94239e";
pub const SECRET: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";

/// What happens to a request instead of an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Status and body; the store sees nothing of the request.
    Answer(u16, String),
    /// No answer, ever.
    Stall,
    /// The connection ends before an answer.
    Reset,
    /// The store does its work, and the connection ends before the answer.
    LoseAnswer,
    /// The answer's body ends with the connection after so many bytes.
    CutAfter(usize),
    /// The store does its work, and the answer is this one.
    Replace(u16, String),
}

impl Fault {
    /// An error as S3 writes it.
    pub fn error(status: u16, code: &str) -> Self {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>on demand</Message></Error>"
        );
        Self::Answer(status, xml)
    }
}

/// A request as rules see it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: http::HeaderMap,
}

impl Asked {
    /// `PutObject`, `UploadPart`, … : the operation by its method and query.
    pub fn operation(&self) -> &'static str {
        let has = |word: &str| self.query.split('&').any(|it| it == word || it.starts_with(&format!("{word}=")));
        match self.method.as_str() {
            "PUT" if has("uploadId") => "UploadPart",
            "PUT" if self.headers.contains_key("x-amz-copy-source") => "CopyObject",
            "PUT" => "PutObject",
            "POST" if has("uploads") => "CreateMultipartUpload",
            "POST" if has("uploadId") => "CompleteMultipartUpload",
            "POST" => "DeleteObjects",
            "DELETE" if has("uploadId") => "AbortMultipartUpload",
            "DELETE" => "DeleteObject",
            "HEAD" => "HeadObject",
            "GET" if has("list-type") => "ListObjectsV2",
            "GET" if has("uploads") => "ListMultipartUploads",
            _ => "GetObject",
        }
    }
}

type Rule = Box<dyn FnMut(&Asked) -> Option<Fault> + Send>;

/// The store. Dropping it ends it and removes its folder.
pub struct ObjectServer {
    pub address: SocketAddr,
    root: PathBuf,
    rule: Arc<Mutex<Rule>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
    garage: Option<Garage>,
}

/// Who does the work.
#[derive(Clone)]
enum Worker {
    Here(s3s::service::S3Service),
    There(Client<HttpConnector, Incoming>, SocketAddr),
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl ObjectServer {
    /// Starts with one empty bucket, [`BUCKET`].
    pub async fn start() -> Self {
        Self::run(false).await
    }

    /// As much of Google's store as its clients look at: nobody is asked who they are, and objects have generations.
    pub async fn start_as_google() -> Self {
        Self::run(true).await
    }

    async fn run(google: bool) -> Self {
        let root = std::env::temp_dir().join(format!("pbmbox-s3-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(root.join(BUCKET)).expect("a folder for the bucket");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&root).expect("a store"));
        if !google {
            service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        }
        let domains = [address.to_string(), format!("localhost:{}", address.port())];
        service.set_host(MultiDomain::new(&domains).expect("host names"));
        let garage = match garage::program().filter(|_| !google) {
            Some(program) => Some(Garage::start(&program).await),
            None => None,
        };
        let worker = match &garage {
            Some(garage) => Worker::There(Client::builder(TokioExecutor::new()).build_http(), garage.address),
            None => Worker::Here(service.build()),
        };
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_: &Asked| None)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (rules, seen, top) = (Arc::clone(&rule), Arc::clone(&asked), root.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (worker, rules, seen) = (worker.clone(), Arc::clone(&rules), Arc::clone(&seen));
                let top = top.clone();
                tokio::spawn(async move {
                    let answer = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
                        if google {
                            request.headers_mut().remove("authorization");
                            if let Some(source) = request.headers_mut().remove("x-goog-copy-source") {
                                request.headers_mut().insert("x-amz-copy-source", source);
                            }
                        }
                        let it = asked_of(&request);
                        let fault = (rules.lock().expect("rule"))(&it).or_else(|| folder(&top, &it));
                        seen.lock().expect("requests").push(it);
                        let answering = answer(worker.clone(), request, fault);
                        async move {
                            let mut answer = answering.await?;
                            if google {
                                answer.headers_mut().insert("x-goog-generation", http::HeaderValue::from_static("1"));
                            }
                            io::Result::Ok(answer)
                        }
                    });
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        });
        Self { address, root, rule, asked, task, garage }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bucket's files, where objects are files.
    pub fn folder(&self) -> Option<PathBuf> {
        self.garage.is_none().then(|| self.root.join(BUCKET))
    }

    /// From now on `rule` decides what happens to requests.
    pub fn rule(&self, rule: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) {
        *self.rule.lock().expect("rule") = Box::new(rule);
    }

    /// The next `count` requests of this operation get this fault.
    pub fn fail(&self, operation: &'static str, count: usize, fault: Fault) {
        let mut left = count;
        self.rule(move |asked| {
            let hit = left > 0 && asked.operation() == operation;
            left -= usize::from(hit);
            hit.then(|| fault.clone())
        });
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("requests").clone()
    }

    /// How many requests of this operation came so far.
    pub fn count(&self, operation: &str) -> usize {
        self.asked().iter().filter(|asked| asked.operation() == operation).count()
    }
}

/// s3s-fs takes a folder for an object.
fn folder(root: &std::path::Path, asked: &Asked) -> Option<Fault> {
    let path = &asked.path.trim_start_matches('/').replace("%2F", "/");
    let folder = [root.join(path), root.join(BUCKET).join(path)].iter().any(|path| path.is_dir());
    match asked.operation() {
        "GetObject" | "HeadObject" if folder => Some(Fault::error(404, "NoSuchKey")),
        // It would not put an object where folders of deleted ones remain.
        "PutObject" | "CopyObject" | "CompleteMultipartUpload" if folder => {
            remove_empty(&root.join(path));
            remove_empty(&root.join(BUCKET).join(path));
            None
        }
        "DeleteObject" if folder => Some(Fault::Answer(204, String::new())),
        _ => None,
    }
}

/// Removes a folder and those in it, as far as there are no files in them.
fn remove_empty(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        remove_empty(&entry.path());
    }
    let _ = std::fs::remove_dir(folder);
}

fn asked_of(request: &http::Request<Incoming>) -> Asked {
    Asked {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

fn whole(status: u16, body: String) -> http::Response<Body> {
    let body = http_body_util::Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed_unsync();
    http::Response::builder().status(status).header("content-type", "application/xml").body(body).expect("an answer")
}

/// s3s-fs calls an upload that is not there any more forbidden.
async fn as_no_such_upload(answer: http::Response<Body>) -> io::Result<http::Response<Body>> {
    if answer.status() != 403 {
        return Ok(answer);
    }
    let (head, body) = answer.into_parts();
    let content = BodyExt::collect(body).await?.to_bytes();
    if String::from_utf8_lossy(&content).contains("<Code>AccessDenied</Code>") {
        let Fault::Answer(status, body) = Fault::error(404, "NoSuchUpload") else { unreachable!("an answer") };
        return Ok(whole(status, body));
    }
    let body = http_body_util::Full::new(content).map_err(|never: Infallible| match never {}).boxed_unsync();
    Ok(http::Response::from_parts(head, body))
}

async fn answer(
    worker: Worker,
    mut request: http::Request<Incoming>,
    fault: Option<Fault>,
) -> io::Result<http::Response<Body>> {
    let reset = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
    match fault {
        Some(Fault::Answer(status, body)) => {
            // A client that is still sending must get to see the answer.
            let _ = request.into_body().collect().await;
            return Ok(whole(status, body));
        }
        Some(Fault::Stall) => {
            std::future::pending::<()>().await;
        }
        Some(Fault::Reset) => return reset(),
        _ => {}
    }
    let answer: http::Response<Body> = match worker {
        Worker::Here(service) => {
            let of_an_upload = request.uri().query().is_some_and(|query| query.contains("uploadId="));
            let answer = hyper::service::Service::call(&service, request).await.map_err(other)?;
            let answer = answer.map(|body| body.map_err(other).boxed_unsync());
            if of_an_upload { as_no_such_upload(answer).await? } else { answer }
        }
        Worker::There(client, address) => {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            // The host stays the one that was asked for: it is signed.
            *request.uri_mut() = format!("http://{address}{path}").parse().map_err(other)?;
            let answer = client.request(request).await.map_err(other)?;
            answer.map(|body| body.map_err(other).boxed_unsync())
        }
    };
    match fault {
        Some(Fault::LoseAnswer) => reset(),
        Some(Fault::Replace(status, body)) => Ok(whole(status, body)),
        Some(Fault::CutAfter(limit)) => {
            let (head, body) = answer.into_parts();
            let content = BodyExt::collect(body).await?.to_bytes();
            let kept = content.slice(..limit.min(content.len()));
            let pieces = stream::iter([Ok(Frame::data(kept)), Err(io::Error::other("cut on demand"))]);
            Ok(http::Response::from_parts(head, StreamBody::new(pieces.boxed()).boxed_unsync()))
        }
        _ => Ok(answer),
    }
}

fn other(error: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{error:?}"))
}
