;; expect: runs until its memory is gone
;; Touches every page it gets, 64 KiB at a time, without an end.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (local $at i32)
    (loop $again
      (br_if $again (i32.lt_s (memory.grow (i32.const 1)) (i32.const 0)))
      (local.set $at (i32.shl (i32.sub (memory.size) (i32.const 1)) (i32.const 16)))
      (memory.fill (local.get $at) (i32.const 1) (i32.const 65536))
      (br $again))))
