use super::*;

const SHAPE: KvShape = KvShape { layers: 2, kv_heads: 3, head_dim: 8, block_size: 5, kv_type: KvType::F16 };

#[test]
fn sizes() {
    assert_eq!(SHAPE.block_bytes(), Ok(2 * 2 * 3 * 8 * 5 * 2));
    assert_eq!(KvShape { kv_type: KvType::F32, ..SHAPE }.block_bytes(), Ok(2 * 2 * 3 * 8 * 5 * 4));
    let mut cache = KvCache::new(SHAPE, 7).unwrap();
    assert_eq!((cache.block_size(), cache.num_blocks(), cache.block_len()), (5, 7, 240));
    for layer in 0..2 {
        let LayerKvMut::F16(elements) = cache.layer_mut(layer) else { panic!("f16 asked for") };
        assert_eq!(elements.len(), 7 * 240);
        assert!(elements.iter().all(|&bits| half::f16::from_bits(bits).is_nan()));
    }
    let cache = KvCache::new(KvShape { kv_type: KvType::F32, ..SHAPE }, 7).unwrap();
    let LayerKv::F32(elements) = cache.layer(1) else { panic!("f32 asked for") };
    assert!(elements.len() == 7 * 240 && elements.iter().all(|x| x.is_nan()));
    assert!(elements.as_ptr().addr().is_multiple_of(64));
}

#[test]
fn impossible_shapes_are_refused() {
    let error = |shape, num_blocks| KvCache::new(shape, num_blocks).unwrap_err();
    assert_eq!(error(KvShape { layers: 0, ..SHAPE }, 1), KvCacheError::Zero("layers"));
    assert_eq!(error(KvShape { kv_heads: 0, ..SHAPE }, 1), KvCacheError::Zero("kv_heads"));
    assert_eq!(error(KvShape { block_size: 0, ..SHAPE }, 1), KvCacheError::Zero("block_size"));
    assert_eq!(error(SHAPE, 0), KvCacheError::Zero("num_blocks"));
    assert_eq!(error(KvShape { head_dim: 257, ..SHAPE }, 1), KvCacheError::HeadDim(257));
    assert_eq!(error(SHAPE, 1 << 30), KvCacheError::TooManySlots { num_blocks: 1 << 30, block_size: 5 });
    assert_eq!(error(KvShape { kv_heads: usize::MAX / 8, ..SHAPE }, 1), KvCacheError::Overflow { num_blocks: 1 });
    assert_eq!(error(KvShape { layers: usize::MAX / 16, ..SHAPE }, 1), KvCacheError::Overflow { num_blocks: 1 });
    let huge = KvShape { kv_heads: 1 << 40, ..SHAPE };
    assert_eq!(error(huge, 1), KvCacheError::OutOfMemory { bytes: 320 << 40 });
}

#[test]
fn types_are_read_by_name() {
    assert_eq!("f16".parse(), Ok(KvType::F16));
    assert_eq!("f32".parse(), Ok(KvType::F32));
    let error = |text: &str| text.parse::<KvType>().unwrap_err().to_string();
    assert_eq!(error("bf16"), "--kv-type bf16: not built yet; one of f16, f32");
    assert_eq!(error("f8"), "--kv-type f8: unknown; one of f16, f32");
}
