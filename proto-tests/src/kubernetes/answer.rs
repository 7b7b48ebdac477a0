//! Answers of the fake API, good and broken.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Response;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use serde_json::{Value, json};

pub(crate) type Body = BoxBody<Bytes, Infallible>;

fn body(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed()
}

pub(super) fn respond(code: u16, text: String) -> Response<Body> {
    let json = text.starts_with('{');
    Response::builder()
        .status(code)
        .header("content-type", if json { "application/json" } else { "text/html" })
        .body(body(text))
        .unwrap()
}

pub(super) fn status(code: u16, reason: &str, message: &str, details: &Value) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": details, "code": code,
    });
    respond(code, status.to_string())
}

pub(super) fn throttled(seconds: u32) -> Response<Body> {
    let mut response = respond(429, "Too many requests, please try again later.\n".to_owned());
    response.headers_mut().insert("retry-after", seconds.into());
    response
}

pub(super) fn short() -> Response<Body> {
    let some = stream::once(async { Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{\"kind\""))) });
    // A pause, so that the beginning leaves. The length is not known, so that the header's is believed.
    let pause = stream::once(async {
        tokio::task::yield_now().await;
        Ok(Frame::data(Bytes::new()))
    });
    let body = StreamBody::new(Box::pin(some.chain(pause))).boxed_unsync_ok();
    Response::builder().status(200).header("content-length", 1000).body(body).unwrap()
}

pub(super) trait BoxedUnsync {
    fn boxed_unsync_ok(self) -> Body;
}

impl<S> BoxedUnsync for StreamBody<S>
where
    S: futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static,
{
    fn boxed_unsync_ok(self) -> Body {
        // A body need not be Sync to be sent from one task; hyper's box wants it, so the stream gets a lock.
        let locked = std::sync::Mutex::new(Box::pin(self));
        BoxBody::new(Locked(locked))
    }
}

struct Locked<B>(std::sync::Mutex<std::pin::Pin<Box<B>>>);

impl<B: hyper::body::Body<Data = Bytes, Error = Infallible>> hyper::body::Body for Locked<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.get_mut().unwrap().as_mut().poll_frame(cx)
    }
}
