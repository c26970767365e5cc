//! From the rows of a file to the lines of a panel: [`crate::kernels::panel`] draws where each byte goes.

use half::bf16;

use crate::kernels::panel::{Line, PANEL_ROWS, panel_lines};
use crate::quant::{WeightType, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Packs up to 32 rows of `k` elements into the zeroed lines of a panel.
pub fn pack_panel(ty: WeightType, k: usize, rows: &[u8], panel: &mut [Line]) {
    match ty {
        WeightType::F32 => pack_words(4 * k, rows, panel),
        WeightType::F16 => pack_halves(2 * k, rows, panel),
        WeightType::BF16 => pack_words(2 * k, rows, panel),
        WeightType::Q8_0 => pack_blocks(ty, k, rows, panel, pack_q8_0),
        WeightType::Q4_0 | WeightType::IQ4NL => pack_blocks(ty, k, rows, panel, pack_q4_0),
        WeightType::Q4_1 => pack_blocks(ty, k, rows, panel, pack_q4_1),
        WeightType::Q5_0 => pack_blocks(ty, k, rows, panel, pack_q5_0),
        WeightType::Q5_1 => pack_blocks(ty, k, rows, panel, pack_q5_1),
        WeightType::MXFP4 => pack_blocks(ty, k, rows, panel, pack_mxfp4),
        WeightType::Q2K => pack_blocks(ty, k, rows, panel, pack_q2_k),
        WeightType::Q3K => pack_blocks(ty, k, rows, panel, pack_q3_k),
        WeightType::Q4K => pack_blocks(ty, k, rows, panel, pack_q4_k),
        WeightType::Q5K => pack_blocks(ty, k, rows, panel, pack_q5_k),
        WeightType::Q6K => pack_blocks(ty, k, rows, panel, pack_q6_k),
        WeightType::IQ4XS => pack_blocks(ty, k, rows, panel, pack_iq4_xs),
    }
}

fn pack_q8_0(block: &[u8; q8_0::BLOCK_BYTES], place: &mut Place<'_>) {
    let [d0, d1, codes @ ..] = block;
    // The signed byte plus 128.
    place.words(&codes.map(|byte| byte ^ 0x80));
    place.half([*d0, *d1]);
}

fn pack_q4_0(block: &[u8; q4_0::BLOCK_BYTES], place: &mut Place<'_>) {
    let [d0, d1, codes @ ..] = block;
    place.words(codes);
    place.half([*d0, *d1]);
}

fn pack_q4_1(block: &[u8; q4_1::BLOCK_BYTES], place: &mut Place<'_>) {
    let [d0, d1, m0, m1, codes @ ..] = block;
    place.words(codes);
    place.half([*d0, *d1]);
    place.half([*m0, *m1]);
}

fn pack_q5_0(block: &[u8; q5_0::BLOCK_BYTES], place: &mut Place<'_>) {
    let [d0, d1, h0, h1, h2, h3, codes @ ..] = block;
    place.words(codes);
    place.words(&by_groups([*h0, *h1, *h2, *h3]));
    place.half([*d0, *d1]);
}

fn pack_q5_1(block: &[u8; q5_1::BLOCK_BYTES], place: &mut Place<'_>) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, codes @ ..] = block;
    place.words(codes);
    place.words(&by_groups([*h0, *h1, *h2, *h3]));
    place.half([*d0, *d1]);
    place.half([*m0, *m1]);
}

/// High bits in the order of the elements, so that bit `g` of byte `i` is that of element `4 * g + i`.
fn by_groups(high: [u8; 4]) -> [u8; 4] {
    let high = u32::from_le_bytes(high);
    std::array::from_fn(|i| (0..8).fold(0, |bits, g| bits | ((high >> (4 * g + i) & 1) as u8) << g))
}

fn pack_mxfp4(block: &[u8; mxfp4::BLOCK_BYTES], place: &mut Place<'_>) {
    let [exponent, codes @ ..] = block;
    place.words(codes);
    // A power of two: what bf16 cuts off is zero.
    place.half(bf16::from_f32(mxfp4::scale(*exponent)).to_le_bytes());
}

fn pack_q2_k(block: &[u8; q2_k::BLOCK_BYTES], place: &mut Place<'_>) {
    let [fields @ .., d0, d1, m0, m1] = block;
    let (scales, codes) = fields.split_at(16);
    place.words(codes);
    place.pairs(scales);
    place.half([*d0, *d1]);
    place.half([*m0, *m1]);
}

fn pack_q3_k(block: &[u8; q3_k::BLOCK_BYTES], place: &mut Place<'_>) {
    let [fields @ .., d0, d1] = block;
    let (high, rest) = fields.split_at(32);
    let (low, packed) = rest.split_at(64);
    place.words(low);
    place.words(high);
    place.pairs(&q3_k::scales(packed.as_array().expect("12 bytes")).map(i8::cast_unsigned));
    place.half([*d0, *d1]);
}

fn pack_q4_k(block: &[u8; q4_k::BLOCK_BYTES], place: &mut Place<'_>) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (packed, codes) = rest.split_at(q4_k::PACKED_SCALES);
    let (scales, minimums) = q4_k::scales_and_minimums(packed.as_array().expect("12 bytes"));
    place.words(codes);
    place.pairs(&scales);
    place.pairs(&minimums);
    place.half([*d0, *d1]);
    place.half([*m0, *m1]);
}

fn pack_q5_k(block: &[u8; q5_k::BLOCK_BYTES], place: &mut Place<'_>) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (packed, rest) = rest.split_at(q4_k::PACKED_SCALES);
    let (high, low) = rest.split_at(32);
    let (scales, minimums) = q4_k::scales_and_minimums(packed.as_array().expect("12 bytes"));
    place.words(low);
    place.words(high);
    place.pairs(&scales);
    place.pairs(&minimums);
    place.half([*d0, *d1]);
    place.half([*m0, *m1]);
}

fn pack_q6_k(block: &[u8; q6_k::BLOCK_BYTES], place: &mut Place<'_>) {
    let [fields @ .., d0, d1] = block;
    let (codes, scales) = fields.split_at(128 + 64);
    place.words(codes);
    place.pairs(scales);
    place.half([*d0, *d1]);
}

fn pack_iq4_xs(block: &[u8; iq4_xs::BLOCK_BYTES], place: &mut Place<'_>) {
    let [d0, d1, h0, h1, l0, l1, l2, l3, codes @ ..] = block;
    place.words(codes);
    place.pairs(&iq4_xs::scales([*h0, *h1], [*l0, *l1, *l2, *l3]).map(i8::cast_unsigned));
    place.half([*d0, *d1]);
}

/// Bytes of a row that are packed before the next row's turn: a cache line. 32 rows a power of two apart would evict
/// each other if they were read further, and the lines they go to stay in the L1 cache.
const TILE_BYTES: usize = 64;

/// Packs rows of 4-byte words, `[words][32 rows]`. What is left of a row after its last whole word ends with zeros.
fn pack_words(row_bytes: usize, rows: &[u8], panel: &mut [Line]) {
    let lines: &mut [[[u8; 4]; PANEL_ROWS]] = bytemuck::cast_slice_mut(panel);
    for (tile, lines) in lines.chunks_mut(TILE_BYTES / 4).enumerate() {
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            let (words, rest) = row[TILE_BYTES * tile..].as_chunks::<4>();
            for (line, word) in lines.iter_mut().zip(words) {
                line[r % PANEL_ROWS] = *word;
            }
            if let Some(line) = lines.get_mut(words.len()) {
                line[r % PANEL_ROWS][..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// Packs rows of 2-byte elements, `[k][32 rows]`. Four rows at a time are exchanged in registers, so that one store of
/// 8 bytes takes the place of four of 2.
fn pack_halves(row_bytes: usize, rows: &[u8], panel: &mut [Line]) {
    const TILE_LINES: usize = TILE_BYTES / 2;
    let mut rest = [Line([0; 64]); TILE_LINES];
    for (tile, lines) in panel.chunks_mut(TILE_LINES).enumerate() {
        // Lines of a fixed number are written without checks; the last ones may be fewer.
        let tail = lines.len() % TILE_LINES;
        let out = if tail == 0 { lines.as_mut_array().expect("a whole tile") } else { &mut rest };
        for (four, rows) in rows.chunks(4 * row_bytes).enumerate() {
            pack_four(row_bytes, tile, four, rows, out);
        }
        if tail > 0 {
            lines.copy_from_slice(&rest[..tail]);
        }
    }
}

/// One tile of up to four `rows`, which are rows `4 * four ..` of the panel; zeros for rows and elements that are
/// missing.
fn pack_four(row_bytes: usize, tile: usize, four: usize, rows: &[u8], out: &mut [Line; TILE_BYTES / 2]) {
    let mut rows = rows.chunks_exact(row_bytes);
    let mut padded = [[0; TILE_BYTES]; 4];
    let rows: [&[u8; TILE_BYTES]; 4] = padded.each_mut().map(|padded| {
        let row = rows.next().and_then(|row| row.get(TILE_BYTES * tile..)).unwrap_or_default();
        match row.first_chunk() {
            Some(whole) => whole,
            None => {
                padded[..row.len()].copy_from_slice(row);
                &*padded
            }
        }
    });
    for (g, lines) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let columns = transpose(rows.map(|row| u64::from_le_bytes(row.as_chunks::<8>().0[g])));
        for (line, column) in lines.iter_mut().zip(columns) {
            line.0.as_chunks_mut::<8>().0[four % 8] = column.to_le_bytes();
        }
    }
}

/// Transposes a matrix of 4 x 4 numbers of 16 bits, the first of a row in its low bits.
fn transpose(rows: [u64; 4]) -> [u64; 4] {
    const EVEN: u64 = 0x0000_ffff_0000_ffff;
    const LOW: u64 = 0xffff_ffff;
    let pairs = |a: u64, b: u64| (a & EVEN | (b & EVEN) << 16, (a >> 16) & EVEN | b & !EVEN);
    let ((even0, odd0), (even1, odd1)) = (pairs(rows[0], rows[1]), pairs(rows[2], rows[3]));
    let (low, high) = (|a, b| a & LOW | b << 32, |a, b| a >> 32 | b & !LOW);
    [low(even0, even1), low(odd0, odd1), high(even0, even1), high(odd0, odd1)]
}

/// Packs blocks of B bytes: `pack` puts the parts of one block to their places. Rows that are missing stay zero: their
/// scales are, so whatever their codes stand for, their products are zero.
fn pack_blocks<const B: usize>(
    ty: WeightType,
    k: usize,
    rows: &[u8],
    panel: &mut [Line],
    pack: impl Fn(&[u8; B], &mut Place<'_>),
) {
    let (blocks, _) = rows.as_chunks::<B>();
    for (b, lines) in panel.chunks_exact_mut(panel_lines(ty, ty.block_len())).enumerate() {
        for (row, blocks) in blocks.chunks_exact(k / ty.block_len()).enumerate() {
            pack(&blocks[b], &mut Place { bytes: bytemuck::cast_slice_mut(lines), row });
        }
    }
}

/// The places of one row in the lines of a block, from the first line on.
struct Place<'a> {
    /// The lines that are still to be filled.
    bytes: &'a mut [u8],
    row: usize,
}

impl Place<'_> {
    /// The next `[words][32 rows][4 bytes]`.
    fn words(&mut self, bytes: &[u8]) {
        self.parts::<4>(bytes);
    }

    /// The next `[bytes / 2][32 rows][2]`.
    fn pairs(&mut self, bytes: &[u8]) {
        self.parts::<2>(bytes);
    }

    /// The next `[32 rows]` of 16-bit numbers.
    fn half(&mut self, bytes: [u8; 2]) {
        self.parts::<2>(&bytes);
    }

    fn parts<const B: usize>(&mut self, bytes: &[u8]) {
        let (parts, _) = bytes.as_chunks::<B>();
        let (lines, rest) = std::mem::take(&mut self.bytes).split_at_mut(parts.len() * B * PANEL_ROWS);
        for (part, line) in parts.iter().zip(lines.chunks_exact_mut(B * PANEL_ROWS)) {
            // The remainder changes nothing, and it spares a check for each part.
            line.as_chunks_mut::<B>().0[self.row % PANEL_ROWS] = *part;
        }
        self.bytes = rest;
    }
}
