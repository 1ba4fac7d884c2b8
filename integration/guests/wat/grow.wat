;; Memory grows up to the maximum that the module declares, and one page more is refused with -1, not a crash.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1 300)
  (data (i32.const 0) "\08\00\00\00\03\00\00\00ok\0a")
  (func $check (param i32 i32) (if (i32.eqz (local.get 0)) (then (call $exit (local.get 1)))))
  (func (export "_start")
    (call $check (i32.eq (memory.grow (i32.const 299)) (i32.const 1)) (i32.const 1))
    (call $check (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (i32.const 2))
    (call $check (i32.eq (memory.size) (i32.const 300)) (i32.const 3))
    ;; the new pages can be used, the last byte too, and by the host
    (i32.store8 (i32.const 19660799) (i32.const 7))
    (memory.copy (i32.const 19660780) (i32.const 0) (i32.const 8))
    (call $check (i32.eqz (call $write (i32.const 1) (i32.const 19660780) (i32.const 1) (i32.const 100))) (i32.const 4))
    (call $check (i32.eq (i32.load (i32.const 100)) (i32.const 3)) (i32.const 5))))
