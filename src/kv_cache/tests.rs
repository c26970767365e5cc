use super::*;

const SHAPE: KvShape = KvShape { layers: 2, kv_heads: 3, head_dim: 8, block_size: 5, kv_type: KvType::F16 };

#[test]
fn sizes() {
    covers!("KVC-3", "KVC-5");
    assert_eq!(SHAPE.block_bytes(), Ok(2 * 2 * 3 * 8 * 5 * 2));
    assert_eq!(KvShape { kv_type: KvType::F32, ..SHAPE }.block_bytes(), Ok(2 * 2 * 3 * 8 * 5 * 4));
    let mut cache = KvCache::new(SHAPE, 7).unwrap();
    assert_eq!((cache.block_size(), cache.num_blocks(), cache.block_len()), (5, 7, 240));
    for layer in 0..2 {
        let LayerKvMut::F16(elements) = cache.layer_mut(layer) else { panic!("f16 asked for") };
        assert_eq!(elements.len(), 7 * 240);
        assert!(elements.iter().all(|x| x.is_nan()));
    }
    let cache = KvCache::new(KvShape { kv_type: KvType::F32, ..SHAPE }, 7).unwrap();
    let LayerKv::F32(elements) = cache.layer(1) else { panic!("f32 asked for") };
    assert!(elements.len() == 7 * 240 && elements.iter().all(|x| x.is_nan()));
    assert!(elements.as_ptr().addr().is_multiple_of(64));
    let cache = KvCache::new(KvShape { kv_type: KvType::BF16, ..SHAPE }, 7).unwrap();
    let LayerKv::BF16(elements) = cache.layer(1) else { panic!("bf16 asked for") };
    assert!(elements.len() == 7 * 240 && elements.iter().all(|x| x.is_nan()));
}

#[test]
fn q8_0_has_scales_beside_the_integers() {
    covers!("KVC-3", "KVC-5");
    // Blocks of 32, 32 and 6 elements.
    let shape = KvShape { kv_type: KvType::Q8_0, head_dim: 70, ..SHAPE };
    assert_eq!(shape.block_bytes(), Ok(2 * 2 * 3 * 5 * (70 + 3 * 2)));
    let cache = KvCache::new(shape, 7).unwrap();
    let LayerKv::Q8_0(elements) = cache.layer(1) else { panic!("q8_0 asked for") };
    let head_len = cache.block_len() / shape.kv_heads;
    assert_eq!(elements.len(), 7 * 3 * head_len);
    for head in elements.chunks_exact(head_len) {
        let Head { k, v, k_scales, v_scales } = Head::of(&shape, head);
        assert_eq!([k.len(), v.len(), k_scales.len(), v_scales.len()], [350, 350, 15, 15]);
        assert!(k_scales.iter().chain(v_scales).all(|scale| scale.is_nan()));
    }
    let shape = KvShape { kv_type: KvType::Q8_0, head_dim: 128, block_size: 32, kv_heads: 1, layers: 1 };
    let bytes_an_element = shape.block_bytes().unwrap() as f64 / (2.0 * 32.0 * 128.0);
    assert_eq!(bytes_an_element, 1.0625);
}

#[test]
fn impossible_shapes_are_refused() {
    covers!("KVC-4");
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
    for kv_type in KvType::ALL {
        assert_eq!(kv_type.to_string().parse(), Ok(kv_type));
    }
    let error = "f8".parse::<KvType>().unwrap_err().to_string();
    assert_eq!(error, "--kv-type f8: unknown; one of f16, bf16, f32, q8_0");
}

/// KVC-7: all bits of a block, in every layer, and of no other.
#[test]
fn a_block_is_copied_whole() {
    covers!("KVC-7");
    for kv_type in KvType::ALL {
        let mut cache = KvCache::new(KvShape { kv_type, ..SHAPE }, 4).unwrap();
        let bytes = cache.block_len() * kv_type.bytes();
        let pattern = |layer: usize, at: usize| (layer * 89 + at / bytes * 31 + at % bytes * 7) as u8;
        for (layer, buffer) in cache.layers.iter_mut().enumerate() {
            (0..4 * bytes).for_each(|at| buffer.bytes_mut()[at] = pattern(layer, at));
        }
        cache.copy_block(2, 1);
        for (layer, buffer) in cache.layers.iter().enumerate() {
            for at in 0..4 * bytes {
                let from = if at / bytes == 1 { at + bytes } else { at };
                assert_eq!(buffer.bytes()[at], pattern(layer, from), "{kv_type} layer {layer} byte {at}");
            }
        }
    }
}
