//! The numbers of rules. All tables share them; a rule nobody uses any more gives its number back.

use std::collections::HashMap;

use agent_ebpf::unwind::{Rule, table::RULES};

/// Every rule in use. Number 0 is [`Rule::NONE`] for ever.
#[derive(Debug)]
pub(super) struct Rules {
    numbers: HashMap<Rule, u16>,
    /// Tables that use each number.
    users: Vec<u32>,
    free: Vec<u16>,
}

// === impl Rules ===

impl Rules {
    /// No rule but the one that says nothing.
    pub(super) fn new() -> Self {
        Self { numbers: HashMap::from([(Rule::NONE, 0)]), users: vec![1], free: Vec::new() }
    }

    /// The number of a rule for one more table, and whether it is new; `None` when all are given out.
    pub(super) fn number(&mut self, rule: Rule) -> Option<(u16, bool)> {
        if let Some(&number) = self.numbers.get(&rule) {
            self.users[usize::from(number)] += 1;
            return Some((number, false));
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.users.len() < RULES => {
                self.users.push(0);
                (self.users.len() - 1) as u16
            }
            None => return None,
        };
        self.users[usize::from(number)] = 1;
        self.numbers.insert(rule, number);
        Some((number, true))
    }

    /// One table less uses a rule.
    pub(super) fn release(&mut self, rule: Rule) {
        let Some(&number) = self.numbers.get(&rule) else { return };
        let users = &mut self.users[usize::from(number)];
        *users -= 1;
        if *users == 0 && number != 0 {
            self.numbers.remove(&rule);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shared_given_back_and_run_out() {
        let mut rules = Rules::new();
        let rule = |n: u64| Rule(n << 16 | 1);
        assert_eq!(rules.number(Rule::NONE), Some((0, false)));
        for n in 1..RULES as u64 {
            assert_eq!(rules.number(rule(n)), Some((n as u16, true)));
        }
        assert_eq!(rules.number(rule(7)), Some((7, false)));
        assert_eq!(rules.number(rule(RULES as u64)), None);
        rules.release(rule(7));
        assert_eq!(rules.number(rule(RULES as u64)), None, "one table still uses it");
        rules.release(rule(7));
        assert_eq!(rules.number(rule(RULES as u64)), Some((7, true)));
    }
}
