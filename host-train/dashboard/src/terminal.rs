//! The screen: taken while there is a dashboard, given back when it is dropped or the program panics.

use std::io::{IsTerminal, Stderr, stderr};
use std::sync::Once;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

use mote_train_support::dashboard::Key;

use crate::Board;

/// Time between two drawings.
const EVERY: Duration = Duration::from_millis(200);

/// The terminal's screen.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    drawn: Option<Instant>,
}

impl Screen {
    /// Takes the screen; `None` where standard error is no terminal.
    pub(crate) fn open() -> std::io::Result<Option<Self>> {
        if !stderr().is_terminal() {
            return Ok(None);
        }
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        enable_raw_mode()?;
        let terminal =
            execute!(stderr(), EnterAlternateScreen).and_then(|()| Terminal::new(CrosstermBackend::new(stderr())));
        match terminal {
            Ok(terminal) => Ok(Some(Self { terminal, drawn: None })),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// Draws the board, if the last time is long enough ago, and tells which keys were pressed.
    pub(crate) fn update(&mut self, board: &Board) -> std::io::Result<Vec<Key>> {
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= EVERY) {
            self.draw(board)?;
        }
        let mut keys = Vec::new();
        while event::poll(Duration::ZERO)? {
            if let Event::Key(event) = event::read()? {
                keys.extend(key(event));
            }
        }
        Ok(keys)
    }

    fn draw(&mut self, board: &Board) -> std::io::Result<()> {
        self.terminal.draw(|frame| board.draw(frame))?;
        self.drawn = Some(Instant::now());
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// What a key means. In raw mode Ctrl-C is a key like others.
fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    match event.code {
        KeyCode::Char('c') if event.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Stop),
        KeyCode::Char('q') => Some(Key::Stop),
        KeyCode::Char('s') => Some(Key::Sample),
        _ => None,
    }
}

/// As far as it can be: nobody is left to hear of an error.
fn give_back() {
    let _ = execute!(stderr(), LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_meaning() {
        let press = |code, modifiers| key(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::NONE), Some(Key::Stop));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Stop));
        assert_eq!(press(KeyCode::Char('s'), KeyModifiers::NONE), Some(Key::Sample));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), None);
    }
}
