//! What can be wrong with a tensor or an operation, said once: the texts are the variants' documentation, too.

use crate::message::messages;

macro_rules! faults {
    ($($name:ident: $text:tt;)+) => {
        /// What is wrong with a tensor or an operation of a file.
        #[non_exhaustive]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $(#[doc = $text] $name,)+
        }

        messages! { Fault { $(Fault::$name => $text;)+ } }
    };
}

faults! {
    Reserved: "a reserved field is not zero";
    Element: "an element type that is neither i8 nor i16";
    Elements: "an empty shape, or one of more than 2^24 elements";
    Offset: "an arena offset that is not a multiple of 4";
    Zero: "a zero point outside its element's range";
    Scale: "a scale that is not a positive number";
    History: "not a tensor that can keep the previous x0";
    SampleShape: "state, output and history must be i16 of the sample's shape";
    HistoryOverlapsState: "the history overlaps the state";
    HistoryMissing: "a row uses the previous x0, but no tensor keeps it";
    NoTensor: "a tensor that does not exist";
    NoSecondTensor: "a second tensor that does not exist";
    Kind: "a kind that is neither convolution nor attention";
    ScratchOffset: "a scratch offset that is not a multiple of 4";
    ScratchEnd: "a scratch that reaches over the arena's end";
    OverlapsKept: "the output or the scratch overlaps the state or the history";
    ScratchOverlapsOutput: "the scratch overlaps the output";
    ScratchOverlapsInput: "the scratch overlaps an input";
    AttentionInPlace: "the output overlaps the input of an attention";
    SumInPlace: "an output that is added to overlaps an input";
    OutputOvertakesInput: "the output overwrites an input before it is read";
    ReadsHistory: "the network reads the history";
    Overwritten: "a value is overwritten before it is read";
    NeverWritten: "a value is read that no earlier operation wrote";
    ConstantsOutside: "constants that lie outside the file";
    Kernel: "a kernel that is neither 1x1 nor 3x3 nor 1x3";
    Stride: "a stride and an enlargement that are not 1 and 1, 2 and 1, or 1 and 2";
    Flag: "a flag that does not exist";
    UnusedNormalization: "fields of a normalization without one";
    OutputShape: "an output shape that the input, stride and enlargement do not give";
    Pixels: "a pass of no pixels, or of more than the output has";
    ScratchLen: "a scratch larger than the arena";
    Weight: "a weight of -128";
    Multiplier: "a multiplier below 1";
    Accumulator: "weights and bias that can overflow the accumulator";
    FractionalBits: "more than 15 fractional bits";
    UnusedSecond: "fields of a second input without a second input";
    InputShapes: "inputs of different heights or widths";
    Groups: "groups that do not divide the channels";
    GroupLen: "a group of more than 65536 elements";
    UnusedConvolution: "an attention with fields that only a convolution has";
    AttentionElements: "an attention whose input is not i8 around zero, or whose output is not i8";
    AttentionShape: "an attention's input must have the output's shape, three times the channels";
    Tokens: "an attention over more than 4096 pixels";
    Heads: "heads that do not divide the channels";
}
