;; expect: exit 0 the first time, then 20 (exist)
;; Makes a directory in the root, and ends with what that answers.
(module
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "made")
  (func (export "_start") (call $exit (call $make (i32.const 3) (i32.const 8) (i32.const 4)))))
