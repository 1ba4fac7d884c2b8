;; expect: runs until a signal ends it, exit 128 and its number
;; A loop that calls nothing.
(module
  (memory (export "memory") 1)
  (func (export "_start") (loop (br 0))))
