//! The functions as the engine wants them, made from the one list in `coracle_abi`.

use coracle_abi::Import;
use coracle_tls::TlsError;
use wasmer::{Function, FunctionEnv, FunctionEnvMut, Store};

use crate::{
    httpsreq,
    memory::Memory,
    preview1, rustls,
    sockets::{self, v1, v2},
    state::State,
    types::{Errno, Result},
    unstable,
};

/// What host functions get from the engine.
pub struct Context {
    /// The guest's state.
    pub state: State,
    /// Its memory; none until it is instantiated, or if it exports none.
    pub memory: Option<wasmer::Memory>,
}

/// What a function of ours answers, as what the module gets.
trait Answer<T> {
    fn answer(self) -> T;
}

impl Answer<i32> for Result {
    fn answer(self) -> i32 {
        self.err().map_or(0, |errno: Errno| i32::from(errno as u16))
    }
}

impl Answer<i32> for std::result::Result<u32, TlsError> {
    fn answer(self) -> i32 {
        self.map_or_else(|error| error.number(), |value| value as i32)
    }
}

impl Answer<i32> for u32 {
    fn answer(self) -> i32 {
        self as i32
    }
}

impl Answer<()> for () {
    fn answer(self) {}
}

fn call<T, A: Answer<T>>(
    mut env: FunctionEnvMut<'_, Context>,
    function: impl FnOnce(&mut State, Memory<'_>) -> A,
) -> T {
    let (context, store) = env.data_and_store_mut();
    let memory = match &context.memory {
        None => Memory::empty(),
        Some(memory) => {
            let view = memory.view(&store);
            // SAFETY: the guest does not run, so does not grow its memory, before `function` returns.
            unsafe { Memory::new(view.data_ptr(), view.data_size()) }
        }
    };
    function(&mut context.state, memory).answer()
}

macro_rules! define {
    (
        both { $( fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?; )* }
        preview1 { $( fn $new_name:ident($($new_arg:ident: $new_ty:ty),*) $(-> $new_ret:ty)?; )* }
        network { $(
            $module:literal $from:ident { $( fn $net_name:ident($($net_arg:ident: $net_ty:ty),*) $(-> $net_ret:ty)?; )* }
        )* }
    ) => {
        /// Makes a host function. `None` is for what is not in the list.
        pub fn define(store: &mut Store, env: &FunctionEnv<Context>, import: &Import) -> Option<Function> {
            match (import.module, import.name) {
                $( ("wasi_snapshot_preview1", stringify!($name)) => Some(
                    define!(store env preview1 $name($($arg: $ty),*) $(-> $ret)?)
                ), )*
                $( ("wasi_unstable", stringify!($name)) => Some(
                    define!(store env unstable $name($($arg: $ty),*) $(-> $ret)?)
                ), )*
                // Others may have the name, with as many parameters as tell them apart.
                $( $( ($module, stringify!($net_name))
                    if import.params.len() == <[&str]>::len(&[$(stringify!($net_arg)),*]) => Some(
                        define!(store env $from $net_name($($net_arg: $net_ty),*) $(-> $net_ret)?)
                    ), )* )*
                $( ("wasi_snapshot_preview1", stringify!($new_name)) => Some(
                    define!(store env preview1 $new_name($($new_arg: $new_ty),*) $(-> $new_ret)?)
                ), )*
                _ => None,
            }
        }
    };
    ($store:ident $env:ident $from:ident $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        Function::new_typed_with_env(
            $store,
            $env,
            |env: FunctionEnvMut<'_, Context>, $($arg: $ty),*| $(-> $ret)? {
                // The list has the signed types of the engine; most functions want unsigned numbers.
                call(env, |state, memory| $from::$name(state, memory, $($arg as _),*))
            },
        )
    };
}

coracle_abi::for_each_import!(define);

#[cfg(test)]
mod tests {
    use wasmer::{Type, sys::EngineBuilder};

    use super::*;

    /// The names come from one list, but the types go through the engine.
    #[test]
    fn what_is_defined_is_what_the_table_says() {
        let mut store = Store::new(EngineBuilder::headless().engine());
        let env = FunctionEnv::new(&mut store, Context { state: State::default(), memory: None });
        for import in coracle_abi::IMPORTS {
            let function = define(&mut store, &env, import).expect("in the table");
            let found = function.ty(&store);
            let same = |types: &[Type], table: &[coracle_abi::ValType]| {
                types.iter().map(|&it| crate::module::val_type(it)).eq(table.iter().copied())
            };
            assert!(
                same(found.params(), import.params) && same(found.results(), import.results),
                "{import:?}"
            );
        }
        let standard =
            coracle_abi::find("wasi_snapshot_preview1", "sock_accept").next().expect("in the table");
        assert!(define(&mut store, &env, &Import { module: "wasi_unstable", ..*standard }).is_none());
    }
}
