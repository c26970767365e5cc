//! `.npy` files: what NumPy writes is read, what is written has NumPy's layout, and nothing else is taken for one.

use llorch_cpud::trace::npy::{Array, MAX_HEADER_BYTES, NpyError, Values, decode, encode};

/// A file with this header, of version 1.0, padded as NumPy pads.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut header = header.to_owned();
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// TRACE-001.
#[test]
fn what_numpy_saves_is_read() {
    covers!("TRACE-001");
    // numpy 2.3: numpy.save of numpy.array([[1.0, -2.5, 0.0], [3.0, inf, -inf]], dtype="<f4").
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    let values = [1.0, -2.5, 0.0, 3.0, f32::INFINITY, f32::NEG_INFINITY];
    let mut saved = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    saved.extend(header.bytes());
    saved.resize(127, b' ');
    saved.push(b'\n');
    saved.extend(floats(&values));
    assert_eq!(decode(&saved), Ok(Array { shape: vec![2, 3], values: Values::F32(values.into()) }));
    let ids = file("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", &[1, 0, 0, 0, 255, 255, 255, 255]);
    assert_eq!(decode(&ids), Ok(Array { shape: vec![2], values: Values::I32(vec![1, -1]) }));
    // Version 2.0 has a longer length; keys and space may come in any order.
    let mut second = b"\x93NUMPY\x02\x00".to_vec();
    let header = "{\"shape\" : ( 1 , ) ,'fortran_order':False,  'descr':'<f4'}  \n";
    second.extend((header.len() as u32).to_le_bytes());
    second.extend(header.bytes().chain(7f32.to_le_bytes()));
    assert_eq!(decode(&second), Ok(Array { shape: vec![1], values: Values::F32(vec![7.0]) }));
    let scalar = file("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", &floats(&[2.0]));
    assert_eq!(decode(&scalar), Ok(Array { shape: vec![], values: Values::F32(vec![2.0]) }));
}

/// TRACE-001.
#[test]
fn what_is_written_has_numpys_layout() {
    covers!("TRACE-001");
    let array = Array { shape: vec![2, 3], values: Values::F32(vec![0.5; 6]) };
    let bytes = encode(&array);
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((data % 64, bytes[data - 1], bytes.len() - data), (0, b'\n', 24));
    let header = std::str::from_utf8(&bytes[10..data]).unwrap().trim_end();
    assert_eq!(header, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
    let ids = encode(&Array { shape: vec![2], values: Values::I32(vec![3, 4]) });
    assert!(String::from_utf8_lossy(&ids).contains("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }"));
}

#[test]
fn every_bit_comes_back() {
    let patterns = [0u32, 1, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_1234, 0xffff_ffff, 0x3f80_0001];
    let values = Values::F32(patterns.iter().map(|bits| f32::from_bits(*bits)).collect());
    for shape in [vec![8], vec![2, 4], vec![1, 2, 1, 4], vec![8, 1, 1, 1, 1, 1, 1, 1]] {
        let bytes = encode(&Array { shape: shape.clone(), values: values.clone() });
        let back = decode(&bytes).expect("what was written");
        assert_eq!(back.shape, shape);
        let Values::F32(back) = back.values else { panic!("f32 was written") };
        assert_eq!(back.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), patterns);
    }
}

/// TRACE-002.
#[test]
fn what_is_no_array_is_refused() {
    covers!("TRACE-002");
    let good = encode(&Array { shape: vec![2, 3], values: Values::F32(vec![0.5; 6]) });
    for length in 0..good.len() {
        assert!(decode(&good[..length]).is_err(), "cut to {length} bytes");
    }
    assert!(matches!(decode(&[&good[..], &[0]].concat()), Err(NpyError::Length { got: 25, expected: 24, .. })));
    assert_eq!(decode(b"PK\x03\x04 a zip file"), Err(NpyError::Magic));
    assert_eq!(decode(b"\x93NUMPY\x09\x00\x10\x00"), Err(NpyError::Version(9, 0)));
    assert_eq!(decode(b"\x93NUMPY\x01\x07\x10\x00"), Err(NpyError::Version(1, 7)));
    let mut huge = b"\x93NUMPY\x02\x00".to_vec();
    huge.extend(u32::MAX.to_le_bytes());
    assert_eq!(decode(&huge), Err(NpyError::HeaderLength(u32::MAX as usize)));
    let long = " ".repeat(MAX_HEADER_BYTES + 1);
    assert!(matches!(decode(&file(&long, &[])), Err(NpyError::HeaderLength(_))));
    let with_shape =
        |shape: &str| file(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"), &[0; 8]);
    assert!(decode(&with_shape("(2,)")).is_ok());
    let overflow = ["(4294967296, 4294967296)", "(4611686018427387904,)", "(18446744073709551615, 2)"];
    for shape in overflow {
        assert!(matches!(decode(&with_shape(shape)), Err(NpyError::Overflow(_))), "{shape}");
    }
    for shape in ["(3,)", "(0,)", "(1, 0)", "(0, 4294967296)"] {
        assert!(matches!(decode(&with_shape(shape)), Err(NpyError::Length { .. })), "{shape}");
    }
    let headers = [
        "(-2,)",
        "(nan,)",
        "(inf,)",
        "(2.0,)",
        "(1e3,)",
        "(+2,)",
        "(2 2)",
        "(2,,)",
        "(,)",
        "(2",
        "2",
        "[2]",
        "None",
        "(99999999999999999999999,)",
        "(1,1,1,1,1,1,1,1,2)",
        "(2,) trailing",
        "(2L,)",
        "(\u{0662},)",
    ];
    for shape in headers {
        assert!(matches!(decode(&with_shape(shape)), Err(NpyError::Header(_))), "{shape}");
    }
}

/// TRACE-002.
#[test]
fn other_headers_are_refused() {
    covers!("TRACE-002");
    let refused = |header: &str| decode(&file(header, &[0; 8])).expect_err(header);
    for header in [
        "",
        "{",
        "{}",
        "garbage",
        "{'descr': '<f4'}",
        "{'descr': '<f4', 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (2,)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x",
        "{'descr' '<f4', 'fortran_order': False, 'shape': (2,)}",
    ] {
        assert!(matches!(refused(header), NpyError::Header(_)), "{header}");
    }
    for descr in [">f4", "<f8", "<f2", "|O", "<i8", "|u1", ""] {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,)}}");
        assert_eq!(refused(&header), NpyError::Type(descr.into()), "{descr}");
    }
    let mut bytes = file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", &[0; 8]);
    bytes[12] = 0xff;
    assert_eq!(decode(&bytes), Err(NpyError::Header("not UTF-8")));
}
