//! Data parallel training: workers that train one network together, one a device, each in a thread of its own.
//!
//! Every worker computes the gradient of its part of each batch; all take the same step along the mean of all gradients
//! ([`crate::ops::DenoiserBackend::all_reduce`]), so their weights are the same bits at every step. The first worker also
//! does what is done once: logs, averages of the weights, checkpoints.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Another worker has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another worker has stopped")]
pub struct Left;

/// One of the workers.
#[derive(Debug)]
pub struct Peer<B: Backend> {
    rank: usize,
    group: Arc<Group<B>>,
}

/// What the workers share.
#[derive(Debug)]
struct Group<B: Backend> {
    devices: Vec<B::Device>,
    tensors: Exchange<Tensor<B, 1>>,
    numbers: Exchange<Vec<f32>>,
    words: Exchange<Option<u64>>,
}

impl<B: Backend> Peer<B> {
    /// The workers of these devices, in order of their ranks.
    pub fn group(devices: &[B::Device]) -> Vec<Self> {
        let count = devices.len();
        let group = Arc::new(Group {
            devices: devices.to_vec(),
            tensors: Exchange::new(count),
            numbers: Exchange::new(count),
            words: Exchange::new(count),
        });
        (0..count).map(|rank| Self { rank, group: Arc::clone(&group) }).collect()
    }

    /// Its number, counted from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The device that it computes on.
    pub fn device(&self) -> &B::Device {
        &self.group.devices[self.rank]
    }

    /// The devices of all workers, in order of their ranks.
    pub fn devices(&self) -> &[B::Device] {
        &self.group.devices
    }

    /// Every worker's tensor, in order of their ranks, each where it was; waits until all have given theirs.
    ///
    /// # Errors
    /// If another worker has stopped.
    pub fn gather(&self, tensor: Tensor<B, 1>) -> Result<Vec<Tensor<B, 1>>, Left> {
        self.group.tensors.gather(self.rank, tensor)
    }

    /// Waits until all workers are here.
    ///
    /// # Errors
    /// If another worker has stopped.
    pub fn meet(&self) -> Result<(), Left> {
        self.agree((self.rank == 0).then_some(0)).map(drop)
    }

    /// The sums of every worker's numbers, added in order of their ranks.
    ///
    /// # Errors
    /// If another worker has stopped.
    pub(crate) fn sum(&self, numbers: Vec<f32>) -> Result<Vec<f32>, Left> {
        let add = |sums: Vec<f32>, more: Vec<f32>| sums.into_iter().zip(more).map(|(a, b)| a + b).collect();
        Ok(self.group.numbers.gather(self.rank, numbers)?.into_iter().reduce(add).unwrap_or_default())
    }

    /// What the first worker says; the others say nothing.
    ///
    /// # Errors
    /// If another worker has stopped.
    pub(crate) fn agree(&self, word: Option<u64>) -> Result<u64, Left> {
        self.group.words.gather(self.rank, word)?[0].ok_or(Left)
    }
}

impl<B: Backend> Drop for Peer<B> {
    fn drop(&mut self) {
        self.group.tensors.leave();
        self.group.numbers.leave();
        self.group.words.leave();
    }
}

/// A place where every worker gives a value and takes all values, again and again.
#[derive(Debug)]
struct Exchange<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// One a worker; emptied when all have taken them.
    given: Vec<Option<T>>,
    taken: usize,
    left: bool,
}

impl<T: Clone> Exchange<T> {
    fn new(count: usize) -> Self {
        let state = State { given: vec![None; count], taken: 0, left: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn gather(&self, rank: usize, value: T) -> Result<Vec<T>, Left> {
        // A worker that panics leaves, which the others hear.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |state| self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        // Others have yet to take what was given before.
        while state.given[rank].is_some() {
            if state.left {
                return Err(Left);
            }
            state = wait(state);
        }
        state.given[rank] = Some(value);
        self.changed.notify_all();
        let all = loop {
            if let Some(all) = state.given.iter().cloned().collect::<Option<Vec<T>>>() {
                break all;
            }
            if state.left {
                return Err(Left);
            }
            state = wait(state);
        };
        state.taken += 1;
        if state.taken == state.given.len() {
            state.taken = 0;
            state.given.fill_with(|| None);
            self.changed.notify_all();
        }
        Ok(all)
    }
}

impl<T> Exchange<T> {
    fn leave(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).left = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use burn::backend::Flex;

    use super::*;
    use crate::ops::DenoiserBackend;

    fn vector(values: [f32; 2]) -> Tensor<Flex, 1> {
        Tensor::from_floats(values, &Default::default())
    }

    /// Runs each worker in a thread; their results in order of their ranks.
    fn work<T: Send>(count: usize, work: impl Fn(Peer<Flex>) -> T + Sync) -> Vec<T> {
        let peers = Peer::group(&vec![Default::default(); count]);
        thread::scope(|scope| {
            let threads: Vec<_> = peers.into_iter().map(|peer| scope.spawn(|| work(peer))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Numbers whose sum depends on the order; workers that are late, each in its turn.
    #[test]
    fn sums_are_in_order_of_the_ranks_whoever_comes_first() {
        for count in [1, 2, 3, 5] {
            let found = work(count, |peer| {
                let sums = (0..20).map(|round| {
                    if round % count == peer.rank() {
                        thread::sleep(Duration::from_millis(1));
                    }
                    let own = [0.1f32 + peer.rank() as f32 * 1e7, round as f32];
                    let sum = Flex::all_reduce(vector(own), &peer).unwrap().into_data().to_vec::<f32>().unwrap();
                    assert_eq!(peer.sum(own.to_vec()).unwrap(), sum);
                    assert_eq!(peer.agree((peer.rank() == 0).then_some(round as u64)), Ok(round as u64));
                    sum
                });
                sums.collect::<Vec<_>>()
            });
            for sums in found {
                for (round, sum) in sums.into_iter().enumerate() {
                    let first = (1..count).fold(0.1f32, |sum, rank| sum + (0.1 + rank as f32 * 1e7));
                    assert_eq!(sum, [first, (count * round) as f32]);
                }
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_worker_that_has_stopped() {
        let found = work(3, |peer| {
            Flex::all_reduce(vector([1.0; 2]), &peer).unwrap();
            if peer.rank() == 1 {
                return Ok(());
            }
            Flex::all_reduce(vector([1.0; 2]), &peer).map(drop)
        });
        assert_eq!(found, [Err(Left), Ok(()), Err(Left)]);
    }
}
