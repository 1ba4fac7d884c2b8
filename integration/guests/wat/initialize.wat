;; expect: exit 5
;; `_initialize` is called before `_start` where a module has both.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.const 5)))
  (func (export "_start") (call $exit (global.get $ready))))
