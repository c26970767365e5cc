//! Finds stop strings in a stream of text.

use ahash::AHashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most stop strings of one request.
pub const MAX_STOP_STRINGS: usize = 128;
/// Most bytes of all stop strings of one request together.
pub const MAX_STOP_BYTES: usize = 16 * 1024;

/// Why a list of stop strings is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopStringsError {
    #[error("stop[{index}]: must not be empty")]
    Empty { index: usize },
    #[error("stop: {count} strings, the most are {MAX_STOP_STRINGS}")]
    TooMany { count: usize },
    #[error("stop: {bytes} bytes in all, the most are {MAX_STOP_BYTES}")]
    TooLong { bytes: usize },
}

/// What one delta leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text that may be sent now.
    pub emit: String,
    /// The stop string that was found. Nothing is emitted after it.
    pub matched: Option<String>,
}

/// Watches one sequence's text for the stop strings of its request.
///
/// The match that ends first wins; of those that end together, the longest. So the result does not depend on how the
/// text is cut into deltas. Text is held back only while it could be the beginning of a stop string. The cost is that
/// of the text's bytes, however many stop strings there are. A clone shares the table and has its own state: make one
/// for each sequence before the first `push`.
#[derive(Clone, Debug)]
pub struct StopStrings {
    automaton: Arc<Automaton>,
    include_stop: bool,
    state: u32,
    /// The end of the text so far that is the beginning of some stop string: `depth` bytes of the current state.
    held: String,
    matched: bool,
}

impl StopStrings {
    /// `include_stop`: the text ends with the stop string that was found instead of before it.
    pub fn new(stops: Vec<String>, include_stop: bool) -> Result<Self, StopStringsError> {
        if stops.len() > MAX_STOP_STRINGS {
            return Err(StopStringsError::TooMany { count: stops.len() });
        }
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(StopStringsError::Empty { index });
        }
        let bytes = stops.iter().map(String::len).sum();
        if bytes > MAX_STOP_BYTES {
            return Err(StopStringsError::TooLong { bytes });
        }
        let automaton = Arc::new(Automaton::new(stops));
        Ok(Self { automaton, include_stop, state: Automaton::ROOT, held: String::new(), matched: false })
    }

    /// Adds text. After a match, text is ignored.
    pub fn push(&mut self, delta: &str) -> StopOutput {
        if self.matched {
            return StopOutput::default();
        }
        let mut text = std::mem::take(&mut self.held);
        let seen = text.len();
        text.push_str(delta);
        for (index, byte) in delta.bytes().enumerate() {
            self.state = self.automaton.next(self.state, byte);
            if let Some(stop) = self.automaton.match_at(self.state) {
                let end = seen + index + 1;
                self.matched = true;
                text.truncate(if self.include_stop { end } else { end - stop.len() });
                return StopOutput { emit: text, matched: Some(stop.to_owned()) };
            }
        }
        // A stop string begins with a whole character, so this is a character boundary of the text too.
        self.held = text.split_off(text.len() - self.automaton.depth(self.state));
        StopOutput { emit: text, matched: None }
    }

    /// The end of the sequence: the text held back, which was no stop string after all.
    pub fn finish(&mut self) -> String {
        self.state = Automaton::ROOT;
        std::mem::take(&mut self.held)
    }
}

/// The Aho-Corasick automaton. Written out because a stream needs the depth of the current state, the length of text
/// that may still become a match, which the library of that name does not give.
#[derive(Debug)]
struct Automaton {
    stops: Vec<String>,
    edges: AHashMap<(u32, u8), u32>,
    nodes: Vec<Node>,
}

/// A prefix of a stop string.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    depth: u32,
    /// The longest proper suffix of this prefix that is a prefix of a stop string as well.
    fail: u32,
    /// The longest stop string that the prefix ends with: an index into `stops`.
    stop: Option<u32>,
}

impl Automaton {
    const ROOT: u32 = 0;

    fn new(stops: Vec<String>) -> Self {
        let mut automaton = Self { stops, edges: AHashMap::new(), nodes: vec![Node::default()] };
        let mut children: Vec<Vec<(u8, u32)>> = vec![Vec::new()];
        for (index, stop) in automaton.stops.iter().enumerate() {
            let mut node = Self::ROOT;
            for (depth, byte) in stop.bytes().enumerate() {
                node = *automaton.edges.entry((node, byte)).or_insert_with(|| {
                    let child = automaton.nodes.len() as u32;
                    automaton.nodes.push(Node { depth: depth as u32 + 1, ..Node::default() });
                    children.push(Vec::new());
                    children[node as usize].push((byte, child));
                    child
                });
            }
            automaton.nodes[node as usize].stop = Some(index as u32);
        }
        automaton.link(&children);
        automaton
    }

    /// Sets `fail` and inherits `stop` from it, nearest to the root first.
    fn link(&mut self, children: &[Vec<(u8, u32)>]) {
        let mut queue = VecDeque::from([Self::ROOT]);
        while let Some(node) = queue.pop_front() {
            for &(byte, child) in &children[node as usize] {
                let fail =
                    if node == Self::ROOT { Self::ROOT } else { self.next(self.nodes[node as usize].fail, byte) };
                let inherited = self.nodes[fail as usize].stop;
                let entry = &mut self.nodes[child as usize];
                entry.fail = fail;
                entry.stop = entry.stop.or(inherited);
                queue.push_back(child);
            }
        }
    }

    fn next(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            if let Some(&next) = self.edges.get(&(state, byte)) {
                return next;
            }
            if state == Self::ROOT {
                return Self::ROOT;
            }
            state = self.nodes[state as usize].fail;
        }
    }

    fn depth(&self, state: u32) -> usize {
        self.nodes[state as usize].depth as usize
    }

    fn match_at(&self, state: u32) -> Option<&str> {
        self.nodes[state as usize].stop.map(|index| self.stops[index as usize].as_str())
    }
}

#[cfg(test)]
mod tests;
