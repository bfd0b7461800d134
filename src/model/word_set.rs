//! Closed sets of words: each is declared once, with the word of each of its members. What lists the
//! words, reads one or shows one is made of that.

/// A text that is none of the words of a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {set}, use {words}")]
pub struct UnknownWord {
    /// What the words are for.
    pub set: &'static str,
    /// All of them, for people.
    pub words: String,
}

/// The words of a set for people: `a, b or c`.
pub fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// Declares an enum whose members stand for words: on a wire, in the configuration, in a label of a
/// metric. The text behind the name says what the words are for.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $Set:ident ($purpose:literal) {
            $($(#[$member_meta:meta])* $Member:ident = $word:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $Set {
            $($(#[$member_meta])* $Member,)+
        }

        impl $Set {
            /// Every member, in the order in which messages list them.
            pub const ALL: [$Set; [$($word),+].len()] = [$($Set::$Member),+];

            /// Every word with its member.
            pub const WORDS: &'static [(&'static str, $Set)] = &[$(($word, $Set::$Member)),+];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($Set::$Member => $word,)+
                }
            }

            /// All words for people: `a, b or c`.
            pub fn either() -> String {
                $crate::model::either(&[$($word),+])
            }
        }

        impl std::fmt::Display for $Set {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $Set {
            type Err = $crate::model::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                let found = $Set::WORDS.iter().find(|(known, _)| *known == word);
                let unknown = || $crate::model::UnknownWord {
                    set: $purpose,
                    words: $Set::either(),
                };
                found.map(|(_, member)| *member).ok_or_else(unknown)
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Browser;

    #[test]
    fn a_word_is_read_as_it_is_shown() {
        for browser in Browser::ALL {
            assert_eq!(browser.to_string().parse(), Ok(browser));
        }
        let unknown = "lynx".parse::<Browser>().unwrap_err();
        let text = "unknown browser, use chromium, firefox or webkit";
        assert_eq!(unknown.to_string(), text);
    }

    #[test]
    fn people_read_them_as_a_sentence() {
        assert_eq!(either(&["a"]), "a");
        assert_eq!(either(&["a", "b"]), "a or b");
        assert_eq!(either(&["a", "b", "c"]), "a, b or c");
    }
}
