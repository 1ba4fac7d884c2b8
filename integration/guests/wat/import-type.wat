;; expect: exit 1, stderr one line with `wasi_snapshot_preview1.fd_write`
;; A known function, asked for with another type.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")))
