//! An RPC that a drain waits for.

use super::state::ServerState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Counts as open until it is closed. The first close counts: the RPC's end, or before that the decision to wait for
/// its client no longer.
pub(super) struct OpenRpc {
    state: Arc<ServerState>,
    is_closed: AtomicBool,
}

impl OpenRpc {
    pub fn new(state: Arc<ServerState>) -> Arc<Self> {
        state.open_rpcs.send_modify(|open| *open += 1);
        Arc::new(Self { state, is_closed: AtomicBool::new(false) })
    }

    pub fn close(&self) {
        if !self.is_closed.swap(true, Ordering::Relaxed) {
            self.state.open_rpcs.send_modify(|open| *open -= 1);
        }
    }
}
