//! The sampler beside other tasks of an executor.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::{Generator, Progress};

/// How much is done between two turns of the other tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Pace {
    /// One operation of the network ([`Generator::step_layer`]).
    Layer,
    /// One row ([`Generator::step`]).
    Row,
}

/// Draws what is left of a sample, and lets the executor run its other tasks in between: see [`Generator::in_turns`].
#[derive(Debug)]
#[must_use = "nothing is drawn until it is awaited"]
pub struct InTurns<'g, 'm, 'a> {
    generator: &'g mut Generator<'m, 'a>,
    pace: Pace,
}

impl<'m, 'a> Generator<'m, 'a> {
    /// A future that draws what is left of the sample, for any executor. After each turn it asks to be polled again and lets
    /// others have theirs. Dropped, it leaves the sampler where it is: [`Generator::step`] or another future goes on.
    ///
    /// ```
    /// use mote_core::{Generator, Pace, Request, RequestError};
    ///
    /// async fn draw(generator: &mut Generator<'_, '_>) -> Result<(), RequestError> {
    ///     generator.start(Request { class: 1, ..Request::default() })?;
    ///     generator.in_turns(Pace::Layer).await;
    ///     Ok(())
    /// }
    /// # use core::{future::Future, pin::pin, task::{Context, Waker}};
    /// # use mote_core::{Arena, selftest};
    /// # let mut file = [0; 8192];
    /// # let model = selftest::write_model(&mut file).unwrap();
    /// # let mut arena = Arena::<8192>::new();
    /// # let mut generator = Generator::new(&model, &mut arena.0).unwrap();
    /// # let mut turns = 1;
    /// # {
    /// #     let mut task = pin!(draw(&mut generator));
    /// #     while task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
    /// #         turns += 1;
    /// #     }
    /// # }
    /// # assert_eq!(turns, u32::from(model.ops()) * u32::from(model.rows()));
    /// ```
    pub fn in_turns(&mut self, pace: Pace) -> InTurns<'_, 'm, 'a> {
        InTurns { generator: self, pace }
    }
}

impl Future for InTurns<'_, '_, '_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let progress = match self.pace {
            Pace::Layer => self.generator.step_layer(),
            Pace::Row => self.generator.step(),
        };
        if progress == Progress::Done {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
