//! The devices that train together.

use std::str::FromStr;

use anyhow::ensure;
use burn::tensor::backend::{Device, DeviceId};
use mote_nvidia::Machine;

use super::Usage;
use crate::ops::DenoiserBackend;

/// Which of a backend's devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Devices {
    /// The backend's first choice.
    #[default]
    Default,
    /// All that there are.
    All,
    /// These numbers.
    These(Vec<u16>),
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let number = |word: &str| word.trim().parse::<u16>();
        let numbers: Result<Vec<u16>, _> = text.split(',').map(number).collect();
        numbers
            .map(Self::These)
            .map_err(|_| format!("{text:?} is no list of devices: give all, or numbers such as 0,1"))
    }
}

impl Devices {
    /// The devices of `B`, at least one.
    ///
    /// # Errors
    /// [`Usage`] if there is no such device, or one is named twice that computes one thing at a time.
    pub(super) fn of<B: DenoiserBackend>(&self) -> anyhow::Result<Vec<B::Device>> {
        let first = B::Device::default();
        let type_id = first.to_id().type_id;
        let count = B::device_count(type_id);
        let numbers: Vec<u16> = match self {
            Self::Default => return Ok(vec![first]),
            Self::All => (0..count as u16).collect(),
            Self::These(numbers) => numbers.clone(),
        };
        for (at, &number) in numbers.iter().enumerate() {
            ensure!(
                usize::from(number) < count,
                Usage(format!(
                    "--devices {number}: there is no such device; this backend has {count}, numbered from 0"
                ))
            );
            ensure!(
                !B::QUEUES || !numbers[..at].contains(&number),
                Usage(format!("--devices names device {number} twice; a GPU trains in one worker"))
            );
        }
        ensure!(
            !B::QUEUES || numbers.len() == 1 || cfg!(feature = "nccl"),
            Usage(
                "--devices: this program was built for one GPU; `cargo xtask train` builds it for several, as does the \
                 Cargo feature nccl"
                    .to_owned()
            )
        );
        if B::QUEUES && numbers.len() > 1 {
            Machine::here().has_collectives().map_err(|why| Usage(format!("--devices: {why}")))?;
        }
        Ok(numbers.into_iter().map(|index_id| B::Device::from_id(DeviceId { type_id, index_id })).collect())
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn devices_are_all_or_a_list_of_numbers_that_there_are() {
        assert_eq!("all".parse(), Ok(Devices::All));
        assert_eq!("0, 2".parse(), Ok(Devices::These(vec![0, 2])));
        for wrong in ["", "0,", "cpu", "-1"] {
            assert!(wrong.parse::<Devices>().unwrap_err().contains("such as 0,1"), "{wrong:?}");
        }
        // The processor is one device; any number of workers share it.
        let count = |devices: Devices| devices.of::<Flex>().map(|devices| devices.len());
        assert_eq!(count(Devices::Default).unwrap(), 1);
        assert_eq!(count(Devices::All).unwrap(), 1);
        assert_eq!(count(Devices::These(vec![0, 0, 0])).unwrap(), 3);
        let error = count(Devices::These(vec![0, 1])).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("this backend has 1"), "{error}");
    }
}
