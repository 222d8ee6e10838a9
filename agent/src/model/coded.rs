//! Closed lists that travel: declared once, each entry with its code (on the wire) and its key (in
//! documents). Stores keep one of both.

/// Declares an enum of such entries; one of them must be `Other`, which a key stands for that this build
/// does not know. The number behind the name is what codes are handed out as.
macro_rules! coded {
    (
        $(#[$outer:meta])* pub enum $name:ident: $code:ty;
        $($(#[$doc:meta])* $entry:ident = $number:literal $key:literal,)+
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$doc])* $entry = $number,)+
        }

        impl $name {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$entry,)+];

            /// The key in documents.
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$entry => $key,)+
                }
            }

            /// The number on the wire.
            pub fn code(self) -> $code {
                self as $code
            }

            /// The kind of a number.
            pub fn from_code(code: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| *kind as u32 == code)
            }

            /// The kind of a key; `Other` for one that this build does not know.
            pub fn from_key(key: &str) -> Self {
                Self::ALL.iter().copied().find(|kind| kind.key() == key).unwrap_or(Self::Other)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.key())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let key = <String as serde::Deserialize>::deserialize(deserializer)?;
                Ok(Self::from_key(&key))
            }
        }
    };
}

pub(super) use coded;
