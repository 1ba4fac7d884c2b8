;; expect: runs until a signal ends it, exit 128 and its number
(module
  (memory (export "memory") 1)
  (func (export "_start") (loop $again (br $again))))
