//! How many KV blocks the pool gets when `--kv-cache` does not say.

use super::byte_size::ByteSize;
use super::error::CliError;
use std::fs;

/// The pool is never larger than this by default: a server that needs more is told so.
const DEFAULT_CAP_BYTES: u64 = 8 << 30;

/// What the size of the pool depends on.
#[derive(Clone, Copy, Debug)]
pub struct KvPlan {
    pub block_bytes: u64,
    /// Tokens in a block.
    pub block_size: u32,
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    /// Memory that other buffers will take.
    pub reserved_bytes: u64,
}

impl KvPlan {
    /// Blocks that hold `max_num_seqs` sequences of full length.
    pub fn full_blocks(&self) -> u64 {
        self.one_sequence().saturating_mul(u64::from(self.max_num_seqs))
    }

    fn one_sequence(&self) -> u64 {
        u64::from(self.max_model_len.div_ceil(self.block_size))
    }

    /// Blocks of the pool. By default: enough for `max_num_seqs` sequences of full length, but at most half of the
    /// memory that is left and at most 8 GiB; always enough for one full sequence, or an error.
    pub fn num_blocks(&self, wanted: Option<ByteSize>) -> Result<usize, CliError> {
        let one_sequence = self.one_sequence();
        let left = available_bytes().map(|b| b.saturating_sub(self.reserved_bytes));
        let blocks = match wanted {
            Some(ByteSize(bytes)) => {
                if left.is_some_and(|left| bytes > left) {
                    let left = ByteSize(left.unwrap_or(0));
                    return Err(CliError::Config(format!("--kv-cache {}: only {left} are free", ByteSize(bytes))));
                }
                bytes / self.block_bytes
            }
            None => {
                let share = left.map_or(DEFAULT_CAP_BYTES, |b| b / 2);
                (share.min(DEFAULT_CAP_BYTES) / self.block_bytes).min(self.full_blocks())
            }
        };
        if blocks == 0 {
            let need = ByteSize(self.block_bytes);
            return Err(CliError::Config(format!("--kv-cache: too small for one block of {need}")));
        }
        if blocks > u64::from(u32::MAX) / u64::from(self.block_size) {
            return Err(CliError::Config(format!("--kv-cache: {blocks} blocks are more than slots can number")));
        }
        if blocks < one_sequence {
            tracing::warn!(
                kv_tokens = blocks * u64::from(self.block_size),
                max_model_len = self.max_model_len,
                "the KV pool cannot hold one sequence of full length; longer requests are refused"
            );
        }
        Ok(blocks as usize)
    }
}

/// Bytes this process may still take: the machine's, or less where a cgroup limits it. `None` where neither is known.
fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let cgroup = match (number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current")) {
        (Some(max), Some(current)) => Some(max.saturating_sub(current)),
        _ => None,
    };
    [machine, cgroup].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: KvPlan =
        KvPlan { block_bytes: 1 << 20, block_size: 32, max_model_len: 100, max_num_seqs: 3, reserved_bytes: 0 };

    #[test]
    fn default_holds_every_sequence_at_full_length_and_no_more() {
        covers!("KVC-6");
        assert_eq!(PLAN.num_blocks(None).unwrap(), 12, "3 sequences of ceil(100 / 32) blocks");
    }

    #[test]
    fn asked_size_is_rounded_down_to_whole_blocks() {
        covers!("KVC-6");
        assert_eq!(PLAN.num_blocks(Some(ByteSize((5 << 20) + 1))).unwrap(), 5);
    }

    #[test]
    fn less_than_a_block_and_more_than_the_machine_are_refused() {
        covers!("KVC-6");
        assert!(PLAN.num_blocks(Some(ByteSize(1000))).is_err());
        assert!(PLAN.num_blocks(Some(ByteSize(1 << 60))).is_err());
    }

    #[test]
    fn what_other_buffers_take_is_not_free_for_the_pool() {
        covers!("KVC-6");
        let full = KvPlan { reserved_bytes: u64::MAX, ..PLAN };
        assert!(full.num_blocks(Some(ByteSize(1 << 20))).is_err());
        assert!(full.num_blocks(None).is_err());
    }
}
