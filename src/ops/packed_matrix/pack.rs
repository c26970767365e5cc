//! From the rows of a file to the lines of a panel: [`crate::kernels::panel`] draws where each byte goes.

use half::bf16;

use crate::kernels::panel::{Line, PANEL_ROWS, panel_lines};
use crate::quant::{WeightType, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Packs up to 32 rows of `k` elements into the zeroed lines of a panel.
pub fn pack_panel(ty: WeightType, k: usize, rows: &[u8], panel: &mut [Line]) {
    match ty {
        WeightType::F32 => pack_elements::<4>(k, rows, bytemuck::cast_slice_mut(panel), |k| k * PANEL_ROWS, 1),
        WeightType::F16 => pack_elements::<2>(k, rows, bytemuck::cast_slice_mut(panel), |k| k * PANEL_ROWS, 1),
        WeightType::BF16 => {
            let place = |k: usize| k / 2 * 2 * PANEL_ROWS + k % 2;
            pack_elements::<2>(k, rows, bytemuck::cast_slice_mut(panel), place, 2);
        }
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

/// Packs elements of B bytes: row 0 of `k` goes to `place(k)`, each further row `row_step` elements on.
fn pack_elements<const B: usize>(
    k: usize,
    rows: &[u8],
    panel: &mut [[u8; B]],
    place: impl Fn(usize) -> usize,
    row_step: usize,
) {
    // A cache line of each row at a time: 32 rows a power of two apart would evict each other before the second
    // element.
    let run = 64 / B;
    let (elements, _) = rows.as_chunks::<B>();
    for start in (0..k).step_by(run) {
        for (r, row) in elements.chunks_exact(k).enumerate() {
            for (i, element) in row[start..].iter().take(run).enumerate() {
                panel[place(start + i) + r * row_step] = *element;
            }
        }
    }
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
            pack(&blocks[b], &mut Place { bytes: bytemuck::cast_slice_mut(lines), row, at: 0 });
        }
    }
}

/// The places of one row in the lines of a block, from the first line on.
struct Place<'a> {
    bytes: &'a mut [u8],
    row: usize,
    at: usize,
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
        for part in parts {
            self.bytes[self.at + B * self.row..][..B].copy_from_slice(part);
            self.at += B * PANEL_ROWS;
        }
    }
}
