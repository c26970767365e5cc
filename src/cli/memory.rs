//! Whether the weights fit, and how many KV blocks the pool gets when `--kv-cache` does not say.

use super::byte_size::ByteSize;
use super::cgroup_memory;
use super::error::CliError;
use std::fs;
use std::path::Path;

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
    /// memory that is left and at most 8 GiB. Less than one sequence of full length is told in the log.
    ///
    /// # Errors
    /// A size that holds no block, that is more than what is left, or whose slots are too many to number.
    pub fn num_blocks(&self, wanted: Option<ByteSize>) -> Result<usize, CliError> {
        let one_sequence = self.one_sequence();
        let left = available_bytes().map(|b| b.saturating_sub(self.reserved_bytes));
        let (bytes, most) = match wanted {
            Some(ByteSize(bytes)) => {
                if let Some(left) = left.filter(|left| bytes > *left) {
                    let (bytes, left) = (ByteSize(bytes), ByteSize(left));
                    return Err(CliError::Config(format!("--kv-cache {bytes}: only {left} are free")));
                }
                (bytes, u64::MAX)
            }
            None => (left.map_or(DEFAULT_CAP_BYTES, |left| DEFAULT_CAP_BYTES.min(left / 2)), self.full_blocks()),
        };
        let blocks = (bytes / self.block_bytes).min(most);
        if blocks == 0 {
            let (bytes, block) = (ByteSize(bytes), ByteSize(self.block_bytes));
            let default = if wanted.is_none() { " (half of what is free)" } else { "" };
            return Err(CliError::Config(format!("--kv-cache {bytes}{default}: too small for one block of {block}")));
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

/// Refuses weights that take more than is left, before they are read: packed without end, the system would kill the
/// process without a word. `bytes` is `None` where it is not known; `source` names the model.
pub fn check_weights(source: &str, bytes: Option<u64>) -> Result<(), CliError> {
    match (bytes, available_bytes()) {
        (Some(bytes), Some(left)) if bytes > left => {
            let (bytes, left) = (ByteSize(bytes), ByteSize(left));
            Err(CliError::Config(format!("{source}: the weights take {bytes}, only {left} are free")))
        }
        _ => Ok(()),
    }
}

/// Bytes this process may still take: what the machine has available, or less where a cgroup of the process or one
/// above it leaves less. `None` where neither is known.
fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroups = cgroup_memory::available_bytes(&own, Path::new("/sys/fs/cgroup"));
    [machine, cgroups].into_iter().flatten().min()
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
        let error = PLAN.num_blocks(Some(ByteSize(1000))).expect_err("no block").to_string();
        assert!(error.contains("1000B") && error.contains("1.0MiB"), "{error}");
        let error = PLAN.num_blocks(Some(ByteSize(1 << 60))).expect_err("more than there is").to_string();
        assert!(error.contains("1073741824.00GiB") && error.ends_with("are free"), "{error}");
    }

    #[test]
    fn weights_that_are_more_than_the_machine_are_refused() {
        let error = check_weights("m.gguf", Some(1 << 60)).expect_err("more than there is").to_string();
        assert!(error.starts_with("m.gguf: the weights take 1073741824.00GiB, only "), "{error}");
        assert!(check_weights("m.gguf", Some(1)).is_ok() && check_weights("m.gguf", None).is_ok());
    }

    #[test]
    fn what_other_buffers_take_is_not_free_for_the_pool() {
        covers!("KVC-6");
        let full = KvPlan { reserved_bytes: u64::MAX, ..PLAN };
        assert!(full.num_blocks(Some(ByteSize(1 << 20))).is_err());
        let error = full.num_blocks(None).expect_err("nothing is left").to_string();
        assert!(error.contains(" 0B ") && error.contains("1.0MiB"), "{error}");
    }
}
