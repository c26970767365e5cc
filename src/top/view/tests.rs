//! Screens of several sizes, read back as text.

use super::super::exposition::Exposition;
use super::super::figures::Figures;
use super::super::snapshot;
use super::super::window::Window;
use super::{Screen, render};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Rect;
use std::time::Duration;

/// `/metrics` of a server that has generated `generated` tokens and finished `ok` requests well. Of its first tokens
/// half came within 0.25 s and half within 0.5 s, of those between tokens all after the last bound.
fn metrics(generated: u32, ok: u32, more: &str) -> String {
    let half = ok / 2;
    let (gaps, sequences, refused) = (ok * 3, ok * 12, ok / 4);
    format!(
        "# TYPE llorch_generation_tokens_total counter\n# TYPE llorch_prompt_tokens_total counter\n\
         # TYPE llorch_requests_total counter\n# TYPE llorch_admission_rejections_total counter\n\
         # TYPE llorch_time_to_first_token_seconds histogram\n# TYPE llorch_inter_token_latency_seconds histogram\n\
         # TYPE llorch_step_sequences histogram\n# TYPE llorch_preemptions_total counter\n\
         llorch_build_info{{version=\"9.8.7\",isa=\"avx512\",threads=\"16\"}} 1\n\
         llorch_model_info{{name=\"Mod\u{1b}el\",architecture=\"llama\",file_type=\"Q8_0\"}} 1\n\
         process_start_time_seconds 1000\nllorch_model_loaded 1\nllorch_draining 0\n\
         llorch_requests_running 12\nllorch_requests_waiting 345\nllorch_batch_sequences 11\nllorch_connections 7\n\
         llorch_saturation_ratio 0.85\nllorch_kv_cache_usage_ratio 0.25\nllorch_kv_blocks_total 2000\n\
         llorch_kv_block_size_tokens 16\nllorch_kv_blocks{{state=\"used\"}} 500\n\
         llorch_kv_blocks{{state=\"cached\"}} 123\nllorch_kv_blocks{{state=\"free\"}} 1377\n\
         llorch_generation_tokens_total {generated}\nllorch_prompt_tokens_total{{source=\"computed\"}} {generated}\n\
         llorch_prompt_tokens_total{{source=\"cached\"}} {ok}\n\
         llorch_requests_total{{rpc=\"Generate\",code=\"OK\"}} {ok}\n\
         llorch_requests_total{{rpc=\"Check\",code=\"OK\"}} 999999\n\
         llorch_requests_total{{rpc=\"Complete\",code=\"RESOURCE_EXHAUSTED\"}} {half}\n\
         llorch_admission_rejections_total{{reason=\"queue_full\"}} {refused}\nllorch_preemptions_total 0\n\
         llorch_time_to_first_token_seconds_bucket{{le=\"0.1\"}} 0\n\
         llorch_time_to_first_token_seconds_bucket{{le=\"0.25\"}} {half}\n\
         llorch_time_to_first_token_seconds_bucket{{le=\"0.5\"}} {ok}\n\
         llorch_time_to_first_token_seconds_bucket{{le=\"+Inf\"}} {ok}\n\
         llorch_inter_token_latency_seconds_bucket{{le=\"80\"}} 0\n\
         llorch_inter_token_latency_seconds_bucket{{le=\"+Inf\"}} {gaps}\n\
         llorch_step_sequences_sum {sequences}\nllorch_step_sequences_count {gaps}\n{more}"
    )
}

/// Two looks, two seconds apart, at a server that has run for 1 h 1 min at the second.
fn window(more: &str) -> Window {
    let mut window = Window::new(Duration::from_secs(30));
    window.push(Duration::from_secs(5), Exposition::parse(&metrics(1000, 40, more)));
    window.push(Duration::from_secs(7), Exposition::parse(&metrics(3468, 60, more)));
    window
}

fn figures(more: &str) -> Figures {
    Figures::of(&window(more), false, Duration::from_secs(4660)).expect("a scrape")
}

fn screen(figures: Option<&Figures>) -> Screen<'_> {
    let (target, interval) = ("http://127.0.0.1:9464/metrics", Duration::from_secs(2));
    Screen { target, interval, figures, trouble: None, silence: Duration::ZERO, paused: false }
}

fn draw(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| render(screen, frame.area(), frame.buffer_mut())).expect("drawn");
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(row).collect()
}

#[track_caller]
fn assert_shows(lines: &[String], expected: &[&str]) {
    for text in expected {
        assert!(lines.iter().any(|line| line.contains(text)), "no {text:?} in\n{}", lines.join("\n"));
    }
}

const EVERYWHERE: [&str; 25] = [
    // The control character of the name does not reach the terminal.
    "llorch-cpud 9.8.7 │ avx512 │ 16 threads │ Mod\u{fffd}el (llama, Q8_0)",
    " serving ",
    " up 1 h 1 min ",
    // 240 more sequences in 60 more steps.
    "running 12    waiting 345    batch 11    mean batch 4.00    connections 7",
    "85 %",
    " 2000 KV blocks of 16 tokens ",
    "25 %  used 500  cached 123  free 1377",
    // 2468 tokens more in 2 s; of the prompt, 20 more came from the cache.
    " generated 1234 tok/s ",
    " prompt 1244 tok/s ",
    "peak 1244",
    " latency, last 2 s ",
    // 20 samples, half below 0.25 s, half up to 0.5 s.
    "first token   250 ms  450 ms  495 ms      20",
    "inter-token  >80.0 s >80.0 s >80.0 s      60",
    "end to end         –       –       –       0",
    "queue time ",
    "linear in the bucket; ~ first, > last bucket",
    " requests, last 2 s ",
    "OK                  10.0      60",
    "RESOURCE_EXHAUSTED  5.00      30",
    "refused             2.50      15",
    "  queue_full        2.50      15",
    "cancelled           0.00       0",
    "preempted           0.00       0",
    "q quit   p pause",
    "http://127.0.0.1:9464/metrics, every 2s",
];

#[test]
fn a_usual_terminal_shows_all_figures() {
    let figures = figures("");
    let lines = draw(&screen(Some(&figures)), 80, 24);
    assert_shows(&lines, &EVERYWHERE);
    assert!(lines.iter().all(|line| line.chars().count() == 80));
    // Bars as long as the shares: 27 columns, of which 25 % are used, 6 % cached.
    assert_shows(&lines, &["KV pool     ███████▒▒···"]);
}

#[test]
fn a_wide_terminal_uses_the_space() {
    let lines = draw(&screen(Some(&figures(""))), 200, 60);
    let squeezed: Vec<String> =
        lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = EVERYWHERE.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_shows(&squeezed, &expected.each_ref().map(String::as_str));
    assert_shows(&squeezed, &["running 12", "KV used 25 %", "since the start", "generated tokens 3468", "steps"]);
    // The distributions: as many below 0.25 s as up to 0.5 s.
    assert_shows(&lines, &["≤250 ms █", "≤500 ms █", ">80.0 s █", "no samples"]);
    let blank = lines.iter().filter(|line| line.trim().is_empty()).count();
    assert!(blank < 3, "{blank} blank lines in\n{}", lines.join("\n"));
}

#[test]
fn a_tiny_terminal_shows_what_matters() {
    let figures = figures("");
    let lines = draw(&screen(Some(&figures)), 20, 5);
    let expected = ["serving", "run 12 wait 345", "gen 1234 tok/s", "KV 25 % load 85 %", "prompt 1244 tok/s"];
    assert_eq!(lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>(), expected);
    assert_eq!(draw(&screen(Some(&figures)), 1, 1), ["s"]);
    let narrow = draw(&screen(Some(&figures)), 60, 30);
    assert_shows(&narrow, &["first token   250 ms  450 ms  495 ms", "RESOURCE_EXHAUSTED  5.00 /s      30", "9.8.7"]);
}

#[test]
fn no_size_is_too_odd() {
    let figures = figures("");
    let sizes = (0..=30).chain([59, 60, 79, 80, 81, 119, 129, 130, 131, 250]);
    for width in sizes.clone() {
        for height in sizes.clone() {
            for figures in [Some(&figures), None] {
                draw(&Screen { trouble: None, ..screen(figures) }, width, height);
            }
        }
    }
    // An area that is not the buffer's.
    let mut buffer = ratatui::buffer::Buffer::empty(Rect::new(0, 0, 10, 3));
    render(&screen(Some(&figures)), Rect::new(5, 1, 200, 60), &mut buffer);
}

#[test]
fn the_banner_tells_the_state() {
    let serving = figures("");
    let banner = |screen: &Screen| draw(screen, 100, 24)[1].trim().replace("up 1 h 1 min", "").trim().to_owned();
    assert_eq!(banner(&screen(Some(&serving))), "serving");
    assert_eq!(banner(&screen(Some(&figures("llorch_model_loaded 0\n")))), "NOT READY: the model is being loaded");
    assert_eq!(banner(&screen(Some(&figures("llorch_draining 1\n")))), "DRAINING: no new requests are taken");
    assert_eq!(banner(&screen(None)), "CONNECTING");
    assert_eq!(banner(&Screen { paused: true, ..screen(Some(&serving)) }), "PAUSED   serving");
    let silence = Duration::from_secs(75);
    let trouble = Some("cannot connect: Connection refused");
    let lost = Screen { trouble, silence, ..screen(Some(&serving)) };
    let expected = "NO ANSWER for 1 min 15 s, trying on: cannot connect: Connection refused";
    assert_eq!(banner(&lost), expected);
    assert_shows(&draw(&lost, 100, 24), &["running 12"]);
    // A server that hangs is told before the look at it has failed.
    assert_eq!(banner(&Screen { silence, ..screen(Some(&serving)) }), "NO ANSWER for 1 min 15 s, trying on");
    assert_shows(&draw(&Screen { trouble, ..screen(None) }, 80, 24), &["waiting for http://127.0.0.1:9464/metrics"]);
    assert_eq!(draw(&lost, 20, 5)[0].trim_end(), "NO ANSWER for 1 min");
}

#[test]
fn too_many_outcomes_leave_the_sums() {
    let reasons: Vec<String> = (0..9)
        .map(|kind| format!("llorch_admission_rejections_total{{reason=\"R{kind}\"}} 1\n"))
        .chain((0..9).map(|kind| format!("llorch_requests_total{{rpc=\"Generate\",code=\"C{kind}\"}} {}\n", 9 - kind)))
        .collect();
    let lines = draw(&screen(Some(&figures(&reasons.concat()))), 80, 24);
    assert_shows(&lines, &["OK ", "RESOURCE_EXHAUSTED", "C0 ", "refused ", "cancelled ", "preempted "]);
    assert!(!lines.iter().any(|line| line.contains("R1 ") || line.contains("C8 ")), "{}", lines.join("\n"));
}

#[test]
fn the_snapshot_has_the_same_figures() {
    let since_start = Figures::of(&window(""), true, Duration::from_secs(4660)).expect("a scrape");
    let lines: Vec<String> = snapshot::text(&since_start).lines().map(str::to_owned).collect();
    assert_shows(
        &lines,
        &[
            "model         Mod\u{fffd}el (llama, Q8_0)",
            "up            1 h 1 min",
            "state         serving",
            "waiting       345",
            "batch         11, mean 4.00 since the start",
            "KV pool       25 %, used 500, cached 123, free 1377 of 2000 blocks of 16 tokens",
            "generated     1234 tokens/s",
            "since the start       p50       p90       p99   samples",
            "first token       250 ms    450 ms    495 ms        60",
            "OK                              10.0        60",
            "  queue_full                    2.50        15",
        ],
    );
}

proptest! {
    /// Whatever the target sends, it is drawn.
    #[test]
    fn any_metrics_are_drawn(
        values in prop::collection::vec(any::<f64>(), 12), label in any::<String>(),
        width in 1u16..180, height in 1u16..60,
    ) {
        let names = ["requests_running", "kv_blocks", "kv_blocks_total", "generation_tokens_total", "batch_sequences",
            "time_to_first_token_seconds_bucket", "saturation_ratio", "requests_total", "step_sequences_sum",
            "step_sequences_count", "kv_cache_usage_ratio", "build_info"];
        let label = label.replace(['\\', '"', '\n', '\r'], "");
        let mut window = Window::new(Duration::from_secs(30));
        for (at, turn) in [(0, 0), (1, 5), (2, 9)] {
            let mut text = "# TYPE llorch_generation_tokens_total counter\n\
                # TYPE llorch_time_to_first_token_seconds histogram\n\
                # TYPE llorch_step_sequences histogram\n".to_owned();
            for (index, name) in names.iter().enumerate() {
                let value = values[(index + turn) % values.len()];
                text.push_str(&format!("llorch_{name}{{le=\"{value}\",state=\"used\",code=\"{label}\"}} {value}\n"));
                text.push_str(&format!("llorch_{name}{{le=\"+Inf\",version=\"{label}\"}} {value}\n"));
            }
            text.push_str(&format!("process_start_time_seconds {}\n", values[0]));
            window.push(Duration::from_secs(at), Exposition::parse(&text));
            for since_start in [true, false] {
                let figures = Figures::of(&window, since_start, Duration::MAX).expect("a scrape");
                draw(&screen(Some(&figures)), width, height);
                let text = snapshot::text(&figures);
                prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            }
        }
    }
}
