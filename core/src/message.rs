//! What errors say, written once: `Display`, and `defmt::Format` behind the feature, which keeps the text off the chip.

/// Implements `Display`, `Error` and, behind the feature, `defmt::Format` for a type that is `Copy`: for each pattern a
/// message with `{}` and `{:08x}` for its arguments, which both formatters understand.
macro_rules! messages {
    ($type:ty { $($pattern:pat => $text:tt $(, $argument:expr)*;)+ }) => {
        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {
                    $($pattern => write!(f, $text $(, $argument)*),)+
                }
            }
        }

        impl core::error::Error for $type {}

        #[cfg(feature = "defmt")]
        impl defmt::Format for $type {
            fn format(&self, f: defmt::Formatter<'_>) {
                match *self {
                    $($pattern => defmt::write!(f, $text $(, $argument)*),)+
                }
            }
        }
    };
}

pub(crate) use messages;
