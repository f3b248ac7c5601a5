//! What the user sees meanwhile: a live screen on a terminal, plain lines elsewhere.

use std::{
    io::{IsTerminal as _, stdout},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use crossterm::event::{self, Event as Input, KeyCode, KeyModifiers};
use ratatui::{
    DefaultTerminal, Frame,
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize as _},
    text::Line,
    widgets::{Block, Paragraph, Sparkline},
};

use super::tally::{Event, Tally};

const COLOURS: [Color; 3] = [Color::Green, Color::Yellow, Color::Cyan];

pub struct View {
    screen: Option<DefaultTerminal>,
    /// What has happened, for the time line.
    lines: Vec<String>,
    /// The second that plain lines have reported last.
    told: u64,
}

impl View {
    /// # Errors
    /// The terminal cannot be taken over.
    pub fn open() -> Result<Self> {
        let screen = if stdout().is_terminal() {
            Some(ratatui::try_init().context("take over the terminal")?)
        } else {
            None
        };
        Ok(Self { screen, lines: Vec::new(), told: 0 })
    }

    /// Gives the terminal back; what the time line said stays on it.
    ///
    /// # Errors
    /// The terminal cannot be restored.
    pub fn close(&mut self) -> Result<()> {
        if self.screen.take().is_some() {
            ratatui::try_restore().context("give the terminal back")?;
            self.lines.iter().for_each(|line| println!("{line}"));
        }
        Ok(())
    }

    pub fn event(&mut self, name: &str, how: &str, expected: &str, at: Duration) {
        self.say(format!("{:>6.1} s  {name}: {how}; expected: {expected}", at.as_secs_f64()));
    }

    pub fn recovered(&mut self, event: &Event, at: Duration) {
        let after = event.seconds_to_recover().unwrap_or(f64::NAN);
        let (cluster, failed) = (&event.expected, event.failed);
        let seconds = at.as_secs_f64();
        self.say(format!(
            "{seconds:>6.1} s    served by {cluster} after {after:.3} s, {failed} requests failed"
        ));
    }

    fn say(&mut self, line: String) {
        if self.screen.is_none() {
            println!("{line}");
        }
        self.lines.push(line);
    }

    /// Shows the state of things; whether the user wants to end.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, tally: &Tally, now: Instant) -> Result<bool> {
        let Some(screen) = &mut self.screen else {
            self.tell_second(tally, now);
            return Ok(false);
        };
        screen.draw(|frame| render(frame, tally, &self.lines)).context("draw the screen")?;
        while event::poll(Duration::ZERO).context("read the keyboard")? {
            if let Input::Key(key) = event::read().context("read the keyboard")? {
                let interrupt =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if interrupt || key.code == KeyCode::Char('q') {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// One line for each second that has passed.
    fn tell_second(&mut self, tally: &Tally, now: Instant) {
        let second = tally.elapsed(now).as_secs();
        if second == self.told || tally.seconds.len() < 2 {
            return;
        }
        self.told = second;
        let last = &tally.seconds[tally.seconds.len() - 2];
        let clusters: Vec<_> =
            last.answered.iter().map(|(name, count)| format!("{name} {count}/s")).collect();
        let round_trip = tally.round_trip().unwrap_or_default();
        println!(
            "{second:>6} s  {}  round trip {round_trip:.1?}  failed {}",
            clusters.join("  "),
            last.failed
        );
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // On the way out of an error or a panic; the error itself matters more.
        let _ = self.close();
    }
}

fn render(frame: &mut Frame<'_>, tally: &Tally, lines: &[String]) {
    let clusters: Vec<&String> = tally.by_cluster.keys().collect();
    let mut rows = vec![Constraint::Length(3)];
    rows.extend(vec![Constraint::Length(4); clusters.len() + 1]);
    rows.push(Constraint::Min(6));
    let areas = Layout::vertical(rows).split(frame.area());

    let round_trip = tally.round_trip().unwrap_or_default();
    let summary = format!(
        "{} requests   {} failed   round trip {round_trip:.1?}   (q ends)",
        tally.requests, tally.failed
    );
    frame
        .render_widget(Paragraph::new(summary).block(Block::bordered().title("Federation".bold())), areas[0]);
    for ((cluster, area), colour) in clusters.iter().zip(&areas[1..]).zip(COLOURS.into_iter().cycle()) {
        let rate = |second: &super::tally::Second| second.answered.get(*cluster).copied().unwrap_or(0);
        let title = format!("answered by {cluster}");
        frame.render_widget(sparkline(tally, rate, &title, colour), *area);
    }
    let failed = sparkline(tally, |second| second.failed, "failed", Color::Red);
    frame.render_widget(failed, areas[clusters.len() + 1]);

    let time_line = areas[clusters.len() + 2];
    let room = usize::from(time_line.height.saturating_sub(2));
    let shown = lines[lines.len().saturating_sub(room)..].iter().map(|line| Line::from(line.as_str()));
    let block = Block::bordered().title("time line");
    frame.render_widget(Paragraph::new(shown.collect::<Vec<_>>()).block(block), time_line);
}

/// Requests a second, the newest second that is whole at the right.
fn sparkline(
    tally: &Tally,
    rate: impl Fn(&super::tally::Second) -> u64,
    title: &str,
    colour: Color,
) -> Sparkline<'static> {
    let whole = tally.seconds.len().saturating_sub(1);
    let rates: Vec<u64> = tally.seconds.iter().take(whole).map(rate).collect();
    let now = rates.last().copied().unwrap_or(0);
    let highest = rates.iter().copied().max().unwrap_or(0).max(1);
    Sparkline::default()
        .data(rates)
        .max(highest)
        .style(Style::new().fg(colour))
        .block(Block::bordered().title(format!("{title}: {now}/s")))
}
