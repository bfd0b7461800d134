//! The declaration of a section: each key once, with its type, default, form, other names and what
//! is told of it.

/// Declares a section of a configuration as a struct with one field a key.
///
/// A key is declared as `name: Type = default, form, modifiers;`. Its doc comment is what the
/// shipped file says of it; lines indented by four spaces are examples. The default may use the
/// parameter that the head names. Modifiers are methods of [`Key`](super::Key), such as
/// `.secret()` and `.env(&["OTHER_NAME"])`; `hot` before the path makes all keys hot.
///
/// The struct gets `defaults`, `keys`, and a `Debug` in which secrets are masked.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $Section:ident: $($hot:ident)? $path:literal ($role:ident: $Role:ty)
        $(
            $(#[doc = $doc:literal])+
            $name:ident: $Type:ty = $default:expr, $form:expr $(, $(.$modifier:ident($($argument:expr)?))+)?;
        )+
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq)]
        pub struct $Section {
            $( $(#[doc = $doc])+ pub $name: $Type, )+
        }

        impl $Section {
            /// The section of a process that is told nothing.
            pub fn defaults($role: $Role) -> Self {
                $Section { $( $name: $default, )+ }
            }

            /// Its keys in a configuration that holds it where the two functions say.
            pub fn keys<C: 'static>(
                of: fn(&C) -> &Self,
                of_mut: fn(&mut C) -> &mut Self,
            ) -> Vec<$crate::settings::Key<C>> {
                use $crate::settings::{Field, Key};
                let keys = vec![$({
                    let field = Field {
                        value: Box::new(move |config| of(config).$name.clone()),
                        put: Box::new(move |config, value| of_mut(config).$name = value),
                    };
                    let path = concat!($path, ".", stringify!($name));
                    Key::new::<$Type>(path, field, $form, &[$($doc),+])
                        $($(.$modifier($($argument)?))+)?
                }),+];
                $( let keys = keys.into_iter().map(Key::$hot).collect(); )?
                keys
            }
        }

        impl std::fmt::Debug for $Section {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                use $crate::settings::Masking::Masked;
                let mut section = f.debug_struct(stringify!($Section));
                $(
                    let form: $crate::settings::Form<$Type> = $form;
                    let shown = (form.show)(&self.$name, Masked);
                    section.field(stringify!($name), &format_args!("{shown}"));
                )+
                section.finish()
            }
        }
    };
}
pub(crate) use section;
