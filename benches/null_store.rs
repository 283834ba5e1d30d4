//! An S3 store that throws away what it gets and invents what it gives: its clients are what is measured.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bytes that came, which are the size of the one object.
type Size = Arc<AtomicU64>;

async fn answer(mut request: ::http::Request<Incoming>, size: Size) -> std::io::Result<::http::Response<Full<Bytes>>> {
    let (method, query) = (request.method().clone(), request.uri().query().unwrap_or_default().to_owned());
    let range = request.headers().get("range").and_then(|it| it.to_str().ok()).map(str::to_owned);
    let mut came = 0;
    while let Some(Ok(frame)) = request.body_mut().frame().await {
        came += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
    let mut head = ::http::Response::builder().header("etag", "\"0\"");
    let mut body = Bytes::new();
    match method.as_str() {
        "PUT" => drop(size.fetch_add(came, Ordering::Relaxed)),
        "POST" if query.contains("uploads") => {
            size.store(0, Ordering::Relaxed);
            body = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>".into();
        }
        "POST" => {
            body = "<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>".into();
        }
        "HEAD" => head = head.header("content-length", size.load(Ordering::Relaxed)),
        _ => {
            let range = range.expect("a range");
            let (from, to) = range.trim_start_matches("bytes=").split_once('-').expect("a range");
            let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
            let all = size.load(Ordering::Relaxed);
            let to = to.min(all - 1);
            head = head.status(206).header("content-range", format!("bytes {from}-{to}/{all}"));
            body = Bytes::from(vec![0; usize::try_from(to - from + 1).expect("small")]);
        }
    }
    Ok(head.body(Full::new(body)).expect("an answer"))
}

/// Serves one object at every key.
pub async fn serve() -> std::net::SocketAddr {
    let size = Size::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let size = Arc::clone(&size);
            let answer = hyper::service::service_fn(move |request| answer(request, Arc::clone(&size)));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
        }
    });
    address
}
