;; expect: exit 134, stderr `wasm trap: `
;; A call through an empty entry of a table.
(module
  (memory (export "memory") 1)
  (table 1 funcref)
  (type $none (func))
  (func $_start (export "_start") (call_indirect (type $none) (i32.const 0))))
