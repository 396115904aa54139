//! Gradient checkpointing: results that a backward pass computes again instead of keeping them (Chen, Xu, Zhang, Guestrin,
//! *Training Deep Nets with Sublinear Memory Cost*, 2016).
//!
//! An operation keeps its inputs for its backward pass. Within [`checkpointing`] it asks burn's checkpointer for them, and
//! where they were made within [`recomputed`], the checkpointer computes them once more from what was kept before; what
//! several need is computed once and dropped after the last. The graph is the same either way, and so are all sums and
//! their order: no bit of a loss or a gradient changes, where operations give the same bits each time.
//!
//! burn's own way of asking for it is a type of backend ([`Autodiff`] with `BalancedCheckpointing`), for which all of
//! training would be compiled once more, and which spares element-wise operations alone.

use std::cell::Cell;
use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing};
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

/// What becomes of the results of the operations that a thread asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Who reads one in the backward pass keeps it.
    Plain,
    /// Kept, but inputs that are not kept are asked for.
    Kept,
    /// Computed again.
    Recomputed,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Plain) };
}

/// Runs a forward pass in which [`recomputed`] results are not kept.
pub fn checkpointing<T>(run: impl FnOnce() -> T) -> T {
    within(Mode::Kept, run)
}

/// Runs a part of a forward pass whose results the backward pass computes again, if it runs within [`checkpointing`].
pub fn recomputed<T>(run: impl FnOnce() -> T) -> T {
    if MODE.get() == Mode::Plain { run() } else { within(Mode::Recomputed, run) }
}

fn within<T>(mode: Mode, run: impl FnOnce() -> T) -> T {
    struct Before(Mode);
    impl Drop for Before {
        fn drop(&mut self) {
            MODE.set(self.0);
        }
    }
    let _before = Before(MODE.replace(mode));
    run()
}

/// What an operation has of an input in its backward pass.
#[derive(Debug, Clone)]
pub(super) enum Kept<P> {
    /// The input, as it was made ready.
    Value(P),
    /// Its node: the input, as it was given.
    Node(NodeId),
}

impl<P: Clone + Send + 'static> Kept<P> {
    pub(super) fn get(self, checkpointer: &mut Checkpointer) -> P {
        match self {
            Self::Value(value) => value,
            Self::Node(node) => checkpointer.retrieve_node_output(node),
        }
    }
}

/// Gives what is to be kept of the input with this number, made ready for the backward pass.
pub(super) type Keep<'a, B> = &'a mut dyn FnMut(usize, FloatTensor<B>) -> Kept<FloatTensor<B>>;

/// An operation's result and its place in the graph. `forward` computes the result, and what `state` makes the operation's
/// state of; it is called again where the result was not kept, and must then give the same.
pub(super) fn traced<B: Backend, O: Backward<B, N>, X, const N: usize>(
    operation: O,
    inputs: [FloatTensor<Autodiff<B>>; N],
    forward: impl Fn([FloatTensor<B>; N]) -> (FloatTensor<B>, X) + Send + Sync + 'static,
    state: impl FnOnce(Keep<'_, B>, X) -> O::State,
) -> FloatTensor<Autodiff<B>> {
    let nodes = inputs.each_ref().map(|input| input.node.clone());
    let (out, made) = forward(inputs.each_ref().map(|input| input.primitive.clone()));
    let state = |keep: Keep<'_, B>| state(keep, made);
    if MODE.get() != Mode::Recomputed {
        return finish(operation.prepare::<NoCheckpointing>(nodes).compute_bound().stateful(), &inputs, out, state);
    }
    let again =
        Again::<B, N> { inputs: nodes.each_ref().map(|node| node.id), forward: Arc::new(move |x| forward(x).0) };
    let prepared = operation.prepare::<BalancedCheckpointing>(nodes).memory_bound().retro_forward(again);
    finish(prepared.parents(&inputs).stateful(), &inputs, out, state)
}

fn finish<B: Backend, O: Backward<B, N>, C: CheckpointStrategy, const N: usize>(
    kind: OpsKind<O, B, O::State, C, N>,
    inputs: &[FloatTensor<Autodiff<B>>; N],
    out: FloatTensor<B>,
    state: impl FnOnce(Keep<'_, B>) -> O::State,
) -> FloatTensor<Autodiff<B>> {
    match kind {
        OpsKind::Tracked(mut prepared) => {
            let state = state(&mut |index, ready| match MODE.get() {
                Mode::Plain => Kept::Value(ready),
                Mode::Kept | Mode::Recomputed => Kept::Node(prepared.checkpoint(&inputs[index])),
            });
            prepared.finish(state, out)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    }
}

/// How a result is computed again.
type Forward<B, const N: usize> = dyn Fn([FloatTensor<B>; N]) -> FloatTensor<B> + Send + Sync;

struct Again<B: Backend, const N: usize> {
    inputs: [NodeId; N],
    forward: Arc<Forward<B, N>>,
}

impl<B: Backend, const N: usize> std::fmt::Debug for Again<B, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Again").field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

impl<B: Backend, const N: usize> RetroForward for Again<B, N> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let inputs = self.inputs.each_ref().map(|node| states.get_state::<FloatTensor<B>>(node));
        states.save(out_node, (self.forward)(inputs));
    }
}
