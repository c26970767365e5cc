//! Around every RPC: counts how it ended, and turns tonic's own errors into those of the table.

use super::answer::{self, Outgoing, Rest};
use super::deadline::Arrival;
use super::open_rpc::OpenRpc;
use super::receive::Received;
use super::receive_stream::{Fault, ReceivedStream};
use super::state::ServerState;
use super::status;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

/// Names of RPCs as metrics show them, by path.
const RPCS: [(&str, &str); 13] = [
    ("/llorch.v1.Inference/Generate", "Generate"),
    ("/llorch.v1.Inference/Complete", "Complete"),
    ("/llorch.v1.Tokenizer/Tokenize", "Tokenize"),
    ("/llorch.v1.Tokenizer/Detokenize", "Detokenize"),
    ("/llorch.v1.Control/GetServerInfo", "GetServerInfo"),
    ("/llorch.v1.Control/GetModelInfo", "GetModelInfo"),
    ("/llorch.v1.Control/GetLoad", "GetLoad"),
    ("/llorch.v1.Control/WatchLoad", "WatchLoad"),
    ("/llorch.v1.Control/Abort", "Abort"),
    ("/grpc.health.v1.Health/Check", "Check"),
    ("/grpc.health.v1.Health/Watch", "Watch"),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", REFLECTION),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", REFLECTION),
];
const REFLECTION: &str = "ServerReflectionInfo";

/// The routes of one connection.
#[derive(Clone)]
pub(super) struct Observe {
    routes: Routes,
    state: Arc<ServerState>,
    outgoing: Arc<Outgoing>,
}

/// One RPC. Its drop is the end, whoever caused it.
struct Report {
    state: Arc<ServerState>,
    rpc: &'static str,
    /// Of Inference alone.
    open: Option<Arc<OpenRpc>>,
    code: Option<Code>,
}

/// A response body that waits for its trailers.
pub(super) struct Observed {
    body: Body,
    /// Of the last frame; it comes before the next.
    rest: Rest,
    report: Report,
    outgoing: Arc<Outgoing>,
    /// Of the request, which stands for a good end of the response.
    fault: Fault,
}

impl Observe {
    pub fn new(routes: Routes, state: Arc<ServerState>) -> Self {
        Self { routes, state, outgoing: Arc::default() }
    }

    /// The same for another connection.
    pub fn on(self, outgoing: Arc<Outgoing>) -> Self {
        Self { outgoing, ..self }
    }
}

impl Report {
    fn new(state: Arc<ServerState>, path: &str) -> Self {
        let rpc = RPCS.iter().find(|(known, _)| *known == path).map_or("other", |(_, name)| name);
        let is_inference = path.starts_with("/llorch.v1.Inference/");
        let open = is_inference.then(|| OpenRpc::new(Arc::clone(&state)));
        Self { state, rpc, open, code: None }
    }

    fn moves(&self) {
        if let Some(open) = &self.open {
            open.moves();
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.state.metrics.count_rpc(self.rpc, status::code_name(code));
        if let Some(open) = &self.open {
            open.close();
        }
    }
}

impl Service<Request<Incoming>> for Observe {
    type Response = Response<Observed>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(Arrival(Instant::now()));
        let mut report = Report::new(Arc::clone(&self.state), request.uri().path());
        if let Some(open) = &report.open {
            request.extensions_mut().insert(Arc::clone(open));
        }
        let limit = self.state.limits.max_message_bytes;
        let (state, fault) = (Arc::clone(&self.state), Fault::default());
        // Reflection alone takes more than one message.
        let response = if report.rpc == REFLECTION {
            let fault = Arc::clone(&fault);
            self.routes.call(request.map(|body| ReceivedStream::new(body, state, fault)))
        } else {
            self.routes.call(request.map(|body| Received::new(body, state)))
        };
        let outgoing = Arc::clone(&self.outgoing);
        Box::pin(async move {
            let observed = |response: Response<Body>, report| {
                response.map(|body| Observed { body, rest: Rest::default(), report, outgoing, fault })
            };
            let Some(Ok(response)) = contained(response).await else {
                report.code = Some(Code::Internal);
                let response: Response<Body> = status::sequence_panic().into_http();
                return Ok(observed(response, report));
            };
            let Some(status) = code_of(response.headers()).and(Status::from_header_map(response.headers())) else {
                return Ok(observed(response, report));
            };
            let own = translate(&status, limit);
            let response = own.map_or(response, |status| {
                report.code = Some(status.code());
                status.into_http()
            });
            report.code = report.code.or(Some(status.code()));
            Ok(observed(response, report))
        })
    }
}

/// The output of `future`, or `None` where it panicked: its client is told, and the connection's other streams go on.
async fn contained<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// What tonic says of a message it could not read, in the words of the table. Ours always carry details.
fn translate(status: &Status, limit: usize) -> Option<Status> {
    match status.code() {
        Code::OutOfRange if status.details().is_empty() => Some(status::message_too_large(limit)),
        Code::Internal if status.details().is_empty() => {
            Some(status::invalid_field("message", "is not a message of this RPC"))
        }
        // Only said where the client is gone.
        Code::Aborted => Some(Status::cancelled(status.message())),
        Code::Unknown => Some(status::with_reason(Code::Internal, "ENGINE_FAULT", "an error without a code")),
        _ => None,
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

impl Observed {
    /// There is no room for what comes next: this is the end instead.
    fn give_up(&mut self, status: Status) -> Frame<<Body as HttpBody>::Data> {
        self.body = Body::empty();
        self.report.code = Some(status.code());
        let mut trailers = status.into_http::<Body>().into_parts().0.headers;
        trailers.remove(CONTENT_TYPE);
        Frame::trailers(trailers)
    }
}

impl HttpBody for Observed {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if !self.rest.is_empty() {
            self.report.moves();
            return Poll::Ready(Some(Ok(Frame::data(self.rest.take()))));
        }
        let Some(frame) = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) else { return Poll::Ready(None) };
        self.report.moves();
        Poll::Ready(Some(frame.map(|frame| match frame.into_data() {
            Ok(data) => match answer::hold(&self.report.state, &self.outgoing, data) {
                Ok(rest) => {
                    self.rest = rest;
                    Frame::data(self.rest.take())
                }
                Err(status) => self.give_up(status),
            },
            Err(_) if let Some(status) = self.fault.get().cloned() => self.give_up(status),
            Err(frame) => {
                self.report.code = frame.trailers_ref().and_then(code_of).or(self.report.code);
                frame
            }
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    /// API-34 at the edge: at its first poll or at a later one.
    #[test]
    fn a_panic_in_a_handler_is_an_answer() {
        covers!("API-34");
        assert_eq!(contained(async { 7 }).now_or_never(), Some(Some(7)));
        for polls in 0..2 {
            let handler = async move {
                for _ in 0..polls {
                    std::future::ready(()).await;
                }
                panic!("a fault of a handler")
            };
            assert_eq!(contained::<i32>(handler).now_or_never(), Some(None));
        }
    }
}
