;; expect: exit 134, stderr `unreachable`, frames `inner`
(module
  (memory (export "memory") 1)
  (func $inner unreachable)
  (func (export "_start") (call $inner)))
