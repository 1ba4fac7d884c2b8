;; expect: exit 134, stderr `wasm trap: out of bounds memory access`
;; The last byte of the memory can be read, the one after it cannot.
(module
  (memory (export "memory") 1 1)
  (func $read (param i32) (result i32) (i32.load8_u (local.get 0)))
  (func $_start (export "_start")
    (drop (call $read (i32.const 65535)))
    (drop (call $read (i32.const 65536)))))
