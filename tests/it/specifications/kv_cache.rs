//! `specs/04_PAGED_KV_CACHE.md`: slots, places within a layer, sizes.

use crate::spec::table;
use llorch_cpud::kernels::Isa;
use llorch_cpud::kv_cache::{KvCache, KvShape, KvType, LayerKv};
use llorch_cpud::ops::Ctx;
use llorch_cpud::ops::attention::write_kv;
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::scheduler::{BlockPool, BlockTable};
use llorch_cpud::types::{BlockId, ForwardBatch, Slot};

/// A table that holds exactly these blocks, from a pool of 16.
fn table_of(blocks: &[u32], block_size: u32) -> BlockTable {
    let mut pool = BlockPool::new(16, block_size);
    let all: Vec<BlockId> = std::iter::from_fn(|| pool.allocate()).collect();
    assert_eq!(all.len(), 16);
    // What is given back last is handed out first.
    blocks.iter().rev().for_each(|block| pool.free(BlockId(*block)));
    let mut table = BlockTable::new(block_size);
    table.grow(blocks.len() as u32 * block_size, &mut pool);
    assert_eq!(table.blocks(), blocks.iter().map(|block| BlockId(*block)).collect::<Vec<_>>());
    table
}

#[test]
fn kvc_1_slots_are_those_of_the_table() {
    covers!("KVC-1");
    for row in table("KVC-1").rows() {
        let table = table_of(&row.list::<u32>("table"), row.get("block_size"));
        assert_eq!(table.slot(row.get("position")), Slot(row.get("slot")), "position {}", row.text("position"));
        let beyond = table.capacity();
        assert!(std::panic::catch_unwind(|| table.slot(beyond)).is_err(), "the table does not reach {beyond}");
    }
}

/// The index within the layer where `value` was written; every other place holds NaN or something else.
fn place_of(value: f32, cache: &KvCache) -> usize {
    let found = match cache.layer(0) {
        LayerKv::F16(elements) => elements.iter().position(|x| x.to_f32() == value),
        LayerKv::BF16(elements) => elements.iter().position(|x| x.to_f32() == value),
        LayerKv::F32(elements) => elements.iter().position(|x| *x == value),
        // The largest of its block: 127 times the scale.
        LayerKv::Q8_0(elements) => elements.iter().position(|x| *x == 127),
    };
    found.expect("the value was written")
}

#[test]
fn kvc_2_elements_lie_where_the_table_says() {
    covers!("KVC-2");
    let pool = Pool::new(1).expect("a thread");
    let ctx = Ctx { pool: &pool, isa: Isa::detect() };
    for row in table("KVC-2").rows() {
        let kv_type: KvType = row.text("type").parse().expect("a type");
        let (kv_heads, head_dim) = (row.get::<usize>("kv_heads"), row.get::<usize>("head_dim"));
        let block_size: usize = row.get("block_size");
        let shape = KvShape { layers: 1, kv_heads, head_dim, block_size, kv_type };
        let element = row.get::<usize>("head") * head_dim + row.get::<usize>("d");
        let slot = Slot(row.get::<u32>("block") * block_size as u32 + row.get::<u32>("offset"));
        let mut one = vec![0.0; kv_heads * head_dim];
        one[element] = 3.0;
        let zero = vec![0.0; kv_heads * head_dim];
        let batch = ForwardBatch { slot_mapping: vec![slot], ..ForwardBatch::default() };
        for (column, k, v) in [("k", &one, &zero), ("v", &zero, &one)] {
            let mut cache = KvCache::new(shape, 3).expect("it fits");
            write_kv(&ctx, &mut cache, 0, k, v, &batch);
            assert_eq!(place_of(3.0, &cache), row.get::<usize>(column), "{column} of {kv_type}, d {}", row.text("d"));
        }
    }
}

#[test]
fn kvc_3_blocks_have_the_bytes_of_the_table() {
    covers!("KVC-3");
    for row in table("KVC-3").rows() {
        let shape = KvShape {
            layers: row.get("layers"),
            kv_heads: row.get("kv_heads"),
            head_dim: row.get("head_dim"),
            block_size: row.get("block_size"),
            kv_type: row.text("type").parse().expect("a type"),
        };
        assert_eq!(shape.block_bytes(), Ok(row.get("block_bytes")), "{shape:?}");
    }
}
