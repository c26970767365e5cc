//! `top`: a running server on the terminal, from its `/metrics`.

use super::error::CliError;
use super::{duration, output};
use crate::top::figures::Figures;
use crate::top::scrape::{ScrapeError, Target};
use crate::top::view::{Screen, render};
use crate::top::window::Window;
use crate::top::{exposition::Exposition, snapshot};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use std::io::IsTerminal;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// What latencies and event rates look back on.
const SPAN: Duration = Duration::from_secs(30);
/// The screen is drawn at least so often: the time without an answer goes on.
const REDRAW: Duration = Duration::from_secs(1);
const MIN_INTERVAL: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct TopArgs {
    /// Where the server shows its metrics.
    #[arg(long, value_name = "METRICS_URL", default_value = "http://127.0.0.1:9464/metrics")]
    target: String,
    /// Time between two looks at the metrics, such as 1s or 500ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = at_least)]
    interval: Duration,
    /// Print the figures as text and end, as where stdout is no terminal. Rates are those of one interval.
    #[arg(long)]
    once: bool,
}

fn at_least(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval >= MIN_INTERVAL { Ok(interval) } else { Err(format!("is less than {MIN_INTERVAL:?}")) }
}

/// Runs the command.
pub fn run(args: TopArgs) -> Result<(), CliError> {
    let target =
        Target::parse(&args.target).map_err(|reason| CliError::Usage(format!("--target {}: {reason}", args.target)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Internal(format!("runtime: {error}")))?;
    if args.once || !std::io::stdout().is_terminal() {
        return runtime.block_on(once(&target, args.interval));
    }
    let result = runtime.block_on(watch(target, args.interval));
    // A look at a server that does not answer must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Two looks, for the rates, and a text.
async fn once(target: &Target, pause: Duration) -> Result<(), CliError> {
    let start = Instant::now();
    let mut window = Window::new(SPAN);
    for look in 0..2 {
        if look > 0 {
            tokio::time::sleep(pause).await;
        }
        let scraped = target.scrape().await;
        let scraped = scraped.map_err(|error| CliError::Unreachable(format!("--target {}: {error}", target.url())))?;
        window.push(start.elapsed(), scraped);
    }
    Figures::of(&window, true, unix_time()).map_or(Ok(()), |figures| output::print(&snapshot::text(&figures)))
}

/// Time since 1970.
fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Gives the terminal back, however the command ends. In a panic that is done already, and a second time would move the
/// cursor over the report.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}

/// Draws until a key or a signal ends it.
async fn watch(target: Target, pause: Duration) -> Result<(), CliError> {
    let io = |error: std::io::Error| CliError::Io(format!("terminal: {error}"));
    let mut signals = Signals::new().map_err(io)?;
    let (sender, mut scrapes) = mpsc::channel(1);
    tokio::spawn(look(target.clone(), pause, sender));
    let _restore = Restore;
    // Also makes a panic give the terminal back before it is reported.
    let mut terminal = ratatui::try_init().map_err(io)?;
    let mut keys = EventStream::new();
    let mut redraw = interval(REDRAW);
    let mut watched = Watched::new(target.url().to_owned(), pause);
    loop {
        watched.draw(&mut terminal).map_err(io)?;
        tokio::select! {
            _ = redraw.tick() => {}
            scraped = scrapes.recv() => match scraped {
                Some(scraped) => watched.take(scraped),
                None => return Err(CliError::Internal("the task that reads the metrics ended".into())),
            },
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if is_end(key) => return Ok(()),
                Some(Ok(Event::Key(key))) if key.code == KeyCode::Char('p') && key.kind == KeyEventKind::Press => {
                    watched.pause();
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(io(error)),
                None => return Ok(()),
            },
            () = signals.next() => return Ok(()),
        }
    }
}

/// Reads the metrics again and again until nobody wants them.
async fn look(target: Target, pause: Duration, sender: mpsc::Sender<Result<Exposition, ScrapeError>>) {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if sender.send(target.scrape().await).await.is_err() {
            return;
        }
    }
}

fn is_end(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => control,
        _ => false,
    }
}

/// Those that end a program and would leave the terminal as it is.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?]))
    }

    async fn next(&mut self) {
        let [terminate, hangup, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// What was seen so far.
struct Watched {
    url: String,
    pause: Duration,
    start: Instant,
    window: Window,
    figures: Option<Figures>,
    trouble: Option<String>,
    answered: Instant,
    paused: bool,
}

impl Watched {
    fn new(url: String, pause: Duration) -> Self {
        let start = Instant::now();
        let window = Window::new(SPAN);
        Self { url, pause, start, window, figures: None, trouble: None, answered: start, paused: false }
    }

    fn take(&mut self, scraped: Result<Exposition, ScrapeError>) {
        match scraped {
            Ok(scraped) => {
                self.answered = Instant::now();
                self.trouble = None;
                self.window.push(self.start.elapsed(), scraped);
                if !self.paused {
                    self.figures = Figures::of(&self.window, false, unix_time());
                }
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    /// Keeps the figures as they are, or goes on. The window goes on meanwhile.
    fn pause(&mut self) {
        self.paused = !self.paused;
        if !self.paused {
            self.figures = Figures::of(&self.window, false, unix_time());
        }
    }

    fn draw(&self, terminal: &mut DefaultTerminal) -> std::io::Result<()> {
        let screen = Screen {
            target: &self.url,
            interval: self.pause,
            figures: self.figures.as_ref(),
            trouble: self.trouble.as_deref(),
            silence: self.answered.elapsed(),
            paused: self.paused,
        };
        terminal.draw(|frame| render(&screen, frame.area(), frame.buffer_mut())).map(|_| ())
    }
}
