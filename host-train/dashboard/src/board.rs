//! What the dashboard shows, and how.

use std::time::{Duration, Instant};

use mote_train_support::dashboard::Message;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};

/// Points the curve is drawn from.
const POINTS: usize = 240;
/// Height of the numbers and metrics, lines and border.
const NUMBERS: u16 = 8;

/// What is known of a training.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Board {
    /// What is trained.
    pub(crate) title: String,
    /// Steps done.
    pub(crate) step: u64,
    /// Steps to do.
    pub(crate) steps: u64,
    /// Steps a second; 0 where not yet known.
    pub(crate) speed: f64,
    /// The step's learning rate.
    pub(crate) rate: f64,
    /// Norm of the step's gradient before clipping.
    pub(crate) norm: f64,
    /// The last measures: name and value.
    pub(crate) metrics: Vec<(String, String)>,
    /// What is going on besides training.
    pub(crate) note: String,
    /// `(step, mean loss)`, at most [`POINTS`], each the mean of `each` steps, the last of fewer.
    losses: Vec<(f64, f64)>,
    /// How many losses the last point has.
    last: u64,
    each: u64,
    /// `(step, loss)` of each validation.
    validations: Vec<(f64, f64)>,
    /// When the first step that was seen was done, and which it was.
    first: Option<(Instant, u64)>,
}

impl Board {
    /// A training of which nothing is known yet.
    pub(crate) fn new(title: &str, steps: u64) -> Self {
        Self { title: title.to_owned(), steps, each: steps.div_ceil(POINTS as u64).max(1), ..Self::default() }
    }

    /// Hears a message; a new training begins anew.
    pub(crate) fn tell(&mut self, message: Message, now: Instant) {
        match message {
            Message::Begin { steps, title } => *self = Self::new(&title, steps),
            Message::Before { step, loss } => self.hear(step, loss),
            Message::Step { step, loss, rate, norm } => {
                self.hear(step, loss);
                (self.rate, self.norm) = (rate, norm);
                // The first step is where the clock starts.
                let (begun, first) = *self.first.get_or_insert((now, step));
                let seconds = now.duration_since(begun).as_secs_f64();
                self.speed = if step > first { (step - first) as f64 / seconds.max(1e-3) } else { 0.0 };
            }
            Message::Validation { step, loss } => self.validations.push((step as f64, loss)),
            Message::Measure { name, value } => match self.metrics.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = value,
                None => self.metrics.push((name, value)),
            },
            Message::Note(note) => self.note = note,
        }
    }

    /// Hears the loss of the step that brings the steps done to `step`.
    fn hear(&mut self, step: u64, loss: f64) {
        self.step = step;
        match self.losses.last_mut() {
            Some((at, mean)) if self.last < self.each => {
                self.last += 1;
                *at = step as f64;
                *mean += (loss - *mean) / self.last as f64;
            }
            _ => {
                self.losses.push((step as f64, loss));
                self.last = 1;
            }
        }
    }

    /// The mean of the last losses.
    fn loss(&self) -> Option<f64> {
        self.losses.last().map(|point| point.1)
    }

    fn left(&self) -> String {
        if self.speed <= 0.0 {
            return "?".to_owned();
        }
        duration(Duration::from_secs_f64((self.steps.saturating_sub(self.step)) as f64 / self.speed))
    }

    /// Draws it all.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Min(6), Constraint::Length(NUMBERS)];
        let [head, gauge, curve, numbers, foot] =
            Layout::vertical(rows.into_iter().chain([Constraint::Length(1)])).areas(frame.area());
        let loss = self.loss().map_or_else(String::new, |loss| format!("   loss {loss:.4}"));
        let title = format!("{}   step {} of {}{loss}", self.title, self.step, self.steps);
        frame.render_widget(Line::styled(title, Style::new().add_modifier(Modifier::BOLD)), head);
        let done = if self.steps == 0 { 0.0 } else { (self.step as f64 / self.steps as f64).min(1.0) };
        let label = format!("{:.0} %", 100.0 * done);
        frame.render_widget(Gauge::default().ratio(done).label(label).gauge_style(Style::new().fg(Color::Blue)), gauge);
        self.draw_curve(frame, curve);
        let [left, right] = Layout::horizontal([Constraint::Length(36), Constraint::Min(20)]).areas(numbers);
        let lines = [
            format!("speed          {:.2} steps/s", self.speed),
            format!("time left      {}", self.left()),
            format!("learning rate  {:.3e}", self.rate),
            format!("gradient norm  {:.4}", self.norm),
        ];
        let now = lines.into_iter().map(Line::from).chain([Line::from(self.note.clone())]).collect::<Vec<_>>();
        frame.render_widget(Paragraph::new(now).block(Block::bordered().title("now")), left);
        let width = self.metrics.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let metrics = self.metrics.iter().map(|(name, value)| Line::from(format!("{name:<width$}  {value}")));
        let metrics = Paragraph::new(metrics.collect::<Vec<_>>()).block(Block::bordered().title("last measures"));
        frame.render_widget(metrics, right);
        let keys = Line::styled("q save and stop   s sample now", Style::new().fg(Color::DarkGray));
        frame.render_widget(keys, foot);
    }

    /// The losses over the steps, on a logarithmic axis.
    fn draw_curve(&self, frame: &mut Frame<'_>, area: Rect) {
        let log = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            let positive = points.iter().filter(|(_, loss)| *loss > 0.0 && loss.is_finite());
            positive.map(|(step, loss)| (*step, loss.log10())).collect()
        };
        let (losses, validations) = (log(&self.losses), log(&self.validations));
        let logs = || losses.iter().chain(&validations).map(|point| point.1);
        let (low, high) = (logs().fold(f64::INFINITY, f64::min), logs().fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = if low > high { (-1.0, 0.0) } else { (low - 0.02, high + 0.02) };
        let label = |log: f64| format!("{:.3}", 10f64.powf(log));
        let steps = self.steps.max(1) as f64;
        let line = |name, points, color| {
            let style = Style::new().fg(color);
            Dataset::default().name(name).marker(Marker::Braille).graph_type(GraphType::Line).style(style).data(points)
        };
        let mut sets = vec![line("loss", &losses[..], Color::Cyan)];
        if !validations.is_empty() {
            sets.push(line("validation", &validations[..], Color::Yellow));
        }
        let x = Axis::default().bounds([0.0, steps]).labels(["0".to_owned(), format!("{steps:.0} steps")]);
        let y = Axis::default().bounds([low, high]).labels([label(low), label(0.5 * (low + high)), label(high)]);
        frame.render_widget(Chart::new(sets).x_axis(x).y_axis(y).block(Block::bordered().title("loss")), area);
    }
}

/// Hours, minutes and seconds, the leading zeros left out.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {seconds:02} s"),
        _ => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn lines(board: &Board, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| board.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(row).collect()
    }

    fn half_way() -> Board {
        let mut board = Board::new("teacher", 1000);
        let begun = Instant::now();
        let loss = |step: u64| 1.0 / (1.0 + step as f64 / 50.0);
        (1..=100).for_each(|step| board.tell(Message::Before { step, loss: loss(step) }, begun));
        for step in 101..=500 {
            // 2.5 steps a second.
            let now = begun + Duration::from_millis((step - 101) * 400);
            board.tell(Message::Step { step, loss: loss(step), rate: 1.5e-3, norm: 0.75 }, now);
        }
        for (step, loss) in [(250, 0.2), (500, 0.1)] {
            board.tell(Message::Validation { step, loss }, begun);
        }
        for (name, value) in [("validation loss", "0.2"), ("Fréchet distance", "12.3"), ("validation loss", "0.1000")]
        {
            board.tell(Message::Measure { name: name.into(), value: value.into() }, begun);
        }
        board
    }

    #[test]
    fn the_numbers_are_where_they_are_looked_for() {
        let lines = lines(&half_way(), 80, 30);
        assert!(lines[0].starts_with("teacher   step 500 of 1000   loss 0.0"), "{}", lines[0]);
        assert!(lines[1].contains("50 %"));
        let text = lines.join("\n");
        for wanted in [
            "speed          2.50 steps/s",
            "time left      3 min 20 s",
            "learning rate  1.500e-3",
            "gradient norm  0.7500",
            "validation loss   0.1000",
            "Fréchet distance  12.3",
            "1000 steps",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        assert!(lines[29].starts_with("q save and stop   s sample now"));
    }

    /// The curve falls: its marks at the left are higher than those at the right, and the right half is still empty.
    #[test]
    fn the_curve_is_drawn() {
        let lines = lines(&half_way(), 80, 30);
        let marks = |range: std::ops::Range<usize>| -> Vec<usize> {
            let braille = |c: char| ('\u{2801}'..='\u{28ff}').contains(&c);
            let rows = lines.iter().enumerate();
            rows.filter(|(_, line)| line.chars().skip(range.start).take(range.len()).any(braille))
                .map(|(y, _)| y)
                .collect()
        };
        let (left, middle, right) = (marks(8..16), marks(34..42), marks(50..60));
        assert!(!left.is_empty() && left[0] < middle[0], "{left:?} {middle:?}\n{}", lines.join("\n"));
        assert!(right.is_empty(), "{}", lines.join("\n"));
    }

    #[test]
    fn a_new_training_and_a_tiny_screen_can_be_drawn() {
        assert!(lines(&Board::new("student", 0), 80, 24)[0].starts_with("student   step 0 of 0"));
        for (width, height) in [(10, 3), (1, 1), (200, 5)] {
            lines(&half_way(), width, height);
        }
    }

    #[test]
    fn points_are_means_and_few() {
        let mut board = Board::new("long", 24_000);
        (1..=24_000).for_each(|step| board.hear(step, step as f64));
        assert_eq!((board.losses.len(), board.losses[0], board.losses[1].1), (POINTS, (100.0, 50.5), 150.5));
    }
}
