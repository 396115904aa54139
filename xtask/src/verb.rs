//! One module a verb.

pub(crate) mod bench;
pub(crate) mod data;
pub(crate) mod demo;
pub(crate) mod device;
pub(crate) mod flash;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod new_firmware;
pub(crate) mod setup;
pub(crate) mod sign;
pub(crate) mod test;
pub(crate) mod training;
