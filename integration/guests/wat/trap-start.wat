;; expect: exit 134, stderr `wasm trap: unreachable`
;; The trap is in the module's start function, before `_start`.
(module
  (memory (export "memory") 1)
  (func $at_start unreachable)
  (start $at_start)
  (func (export "_start")))
