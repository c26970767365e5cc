//! An RPC that a drain waits for.

use super::state::ServerState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Counts as open until it is closed. The first close counts: the RPC's end, or before that the decision to wait for
/// its client no longer.
pub(super) struct OpenRpc {
    state: Arc<ServerState>,
    is_closed: AtomicBool,
    /// The transport has taken something of the answer, or the RPC is closed.
    moved: Notify,
}

impl OpenRpc {
    pub fn new(state: Arc<ServerState>) -> Arc<Self> {
        state.open_rpcs.send_modify(|open| *open += 1);
        Arc::new(Self { state, is_closed: AtomicBool::new(false), moved: Notify::new() })
    }

    pub fn close(&self) {
        if !self.is_closed.swap(true, Ordering::Relaxed) {
            self.state.open_rpcs.send_modify(|open| *open -= 1);
            self.moved.notify_one();
        }
    }

    /// A part of the answer leaves: the client has read what came before, but for what lies in the transport.
    pub fn moves(&self) {
        self.moved.notify_one();
    }

    /// Waits until it is closed. False where nothing of the answer left for `patience`.
    pub async fn is_closed(&self, patience: Duration) -> bool {
        while !self.is_closed.load(Ordering::Relaxed) {
            if timeout(patience, self.moved.notified()).await.is_err() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::server::info::ServerInfo;
    use crate::server::limits::ServerLimits;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn it_is_waited_for_while_it_moves() {
        let info = ServerInfo { isa: String::new(), threads: 1 };
        let metrics = Arc::new(Metrics::new().expect("valid buckets"));
        let state = ServerState::new(info, ServerLimits::default(), metrics);
        let open = OpenRpc::new(Arc::clone(&state));
        const FOR_EVER: Duration = Duration::from_secs(600);
        open.moves();
        assert_eq!(open.moved.notified().now_or_never(), Some(()), "it is noticed");
        open.moves();
        assert_eq!(open.is_closed(FOR_EVER).now_or_never(), None);
        assert!(!open.is_closed(Duration::ZERO).await);
        assert_eq!(state.num_open_rpcs(), 1);
        open.close();
        open.close();
        assert_eq!(open.is_closed(FOR_EVER).now_or_never(), Some(true));
        assert_eq!(state.num_open_rpcs(), 0);
    }
}
