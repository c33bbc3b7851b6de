//! `--cpu-cap`: what is asked of a processor.

use arch::processor::Demands;

/// What `--cpu-cap` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub(crate) demands: Demands,
    /// Whether an image is written, or looked at.
    pub(crate) image: bool,
}

impl Default for Capabilities {
    /// CRIU's, of who says nothing.
    fn default() -> Self {
        Self {
            demands: Demands { state: true, instructions: true, everything: false },
            image: false,
        }
    }
}

pub(crate) const ALL: Demands = Demands { state: true, instructions: true, everything: true };

impl Capabilities {
    /// Takes the value of an option: words by commas, each of which may be taken back by `^`; nothing for all. The RPC
    /// has a number with a bit for each, whatever the others are. Whether it could be understood.
    pub(crate) fn take(&mut self, value: &str) -> bool {
        if let Ok(bits) = value.parse::<u32>() {
            let is = |bit: u32| bits & 1 << bit != 0;
            let demands = Demands { state: is(0), everything: is(1), instructions: is(2) };
            *self = Self { demands, image: true };
            return true;
        }
        let all = ["all"];
        let words: Vec<&str> =
            if value.is_empty() { all.into() } else { value.split(',').collect() };
        for word in words {
            let (word, on) = word.strip_prefix('^').map_or((word, true), |word| (word, false));
            match word {
                "fpu" => self.demands.state = on,
                "ins" => self.demands.instructions = on,
                "cpu" => self.demands.everything = on,
                "all" => self.demands = if on { ALL } else { Demands::default() },
                "none" => self.demands = if on { Demands::default() } else { ALL },
                _ => return false,
            }
        }
        self.image = self.image || self.demands != Demands::default();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(value: &str) -> Option<(bool, bool, bool, bool)> {
        let mut asked = Capabilities::default();
        let Demands { state, instructions, everything } = {
            if !asked.take(value) {
                return None;
            }
            asked.demands
        };
        Some((state, instructions, everything, asked.image))
    }

    #[test]
    fn values_are_criu_s() {
        assert_eq!(taken(""), Some((true, true, true, true)));
        assert_eq!(taken("cpu"), Some((true, true, true, true)));
        assert_eq!(taken("none"), Some((false, false, false, false)));
        assert_eq!(taken("none,ins"), Some((false, true, false, true)));
        assert_eq!(taken("all,^cpu"), Some((true, true, false, true)));
        assert_eq!(taken("^fpu"), Some((false, true, false, true)));
        assert_eq!(taken("4"), Some((false, true, false, true)));
        assert_eq!(taken("0"), Some((false, false, false, true)));
        assert_eq!((taken("mmx"), taken("fpu,")), (None, None));
    }
}
