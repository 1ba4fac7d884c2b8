;; expect: exit 134, stderr `wasm trap: unreachable`, frames `inner` and `_start`
;; An unreachable instruction, two calls deep.
(module
  (memory (export "memory") 1)
  (func $inner unreachable)
  (func $_start (export "_start") (call $inner)))
