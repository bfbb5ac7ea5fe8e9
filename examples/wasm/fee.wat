;; fee(cents BIGINT, per_mille BIGINT) RETURNS BIGINT: columns of numbers in, a column of numbers out.
;;
;; 16 .. 27    the record of the answer
;; 64 .. top   what the host puts in: records, then buffers
;; top ..      the answer's values
(module
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 64))

  ;; lets memory reach to $end
  (func $reach (param $end i32)
    (local $missing i32)
    (local.set $missing (i32.sub (local.get $end) (i32.shl (memory.size) (i32.const 16))))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then
        (if (i32.eq
              (memory.grow (i32.shr_u (i32.add (local.get $missing) (i32.const 65535)) (i32.const 16)))
              (i32.const -1))
          (then (unreachable))))))

  ;; called once before each batch: what the batch before had is free by then
  (func (export "alloc") (param $size i32) (result i32)
    (global.set $top (i32.and (i32.add (local.get $size) (i32.const 79)) (i32.const -16)))
    (call $reach (global.get $top))
    (i32.const 64))

  (func (export "call_raw") (param $rows i32) (param $columns i32) (result i32)
    (local $cents i32) (local $rate i32) (local $out i32) (local $end i32)
    (local.set $cents (i32.load offset=4 (local.get $columns)))
    (local.set $rate (i32.load offset=16 (local.get $columns)))
    (local.set $out (global.get $top))
    (local.set $end (i32.add (local.get $out) (i32.shl (local.get $rows) (i32.const 3))))
    (call $reach (local.get $end))
    (i32.store (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (local.get $out))
    (i32.store (i32.const 24) (i32.const 0))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $out) (local.get $end)))
        (i64.store (local.get $out)
          (i64.div_s
            (i64.mul (i64.load (local.get $cents)) (i64.load (local.get $rate)))
            (i64.const 1000)))
        (local.set $cents (i32.add (local.get $cents) (i32.const 8)))
        (local.set $rate (i32.add (local.get $rate) (i32.const 8)))
        (local.set $out (i32.add (local.get $out) (i32.const 8)))
        (br $next)))
    (i32.const 16)))
