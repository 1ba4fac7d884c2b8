;; expect: exit 134, stderr `wasm trap: call stack exhausted`
;; A recursion without end.
(module
  (memory (export "memory") 1)
  (func $deeper (param i64) (result i64)
    (i64.add (local.get 0) (call $deeper (i64.add (local.get 0) (i64.const 1)))))
  (func $_start (export "_start") (drop (call $deeper (i64.const 0)))))
