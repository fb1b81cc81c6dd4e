//! Fallible allocation: boxes, vectors and shared references out of nonpaged pool.
//!
//! The pool is reached through the global allocator that the driver declares (`wdk_alloc::WdkAllocator`). It aligns to
//! 16 bytes and no more, which [`try_box`] and [`Shared`] check when they are compiled. All of it may be used at
//! IRQL <= DISPATCH_LEVEL.

use alloc::{
    alloc::{alloc, alloc_zeroed},
    boxed::Box,
    vec::Vec,
};
use core::{
    alloc::Layout,
    ops::Deref,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering, fence},
};

use crate::status::{Result, Status};

/// The alignment that nonpaged pool gives on x64 (`MEMORY_ALLOCATION_ALIGNMENT`).
pub const POOL_ALIGNMENT: usize = 16;

/// Moves `value` into nonpaged pool. IRQL <= DISPATCH_LEVEL.
///
/// # Errors
/// [`Status::INSUFFICIENT_RESOURCES`]; the value is dropped.
pub fn try_box<T>(value: T) -> Result<Box<T>> {
    const { assert!(align_of::<T>() <= POOL_ALIGNMENT) }
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(Box::new(value));
    }
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc(layout) }.cast::<T>();
    if memory.is_null() {
        return Err(Status::INSUFFICIENT_RESOURCES);
    }
    // SAFETY: the memory is fresh, large enough, aligned (asserted above), and from the global allocator with the
    // layout that Box will free it with.
    unsafe {
        memory.write(value);
        Ok(Box::from_raw(memory))
    }
}

/// A type of which zero bytes are a value.
///
/// # Safety
/// Memory full of zeroes is a valid value of the type.
pub unsafe trait Zeroed {}

/// A value of zero bytes in nonpaged pool, for types that are too large for a kernel stack. IRQL <= DISPATCH_LEVEL.
///
/// # Errors
/// [`Status::INSUFFICIENT_RESOURCES`].
pub fn try_box_zeroed<T: Zeroed>() -> Result<Box<T>> {
    const { assert!(align_of::<T>() <= POOL_ALIGNMENT && size_of::<T>() != 0) }
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc_zeroed(Layout::new::<T>()) }.cast::<T>();
    if memory.is_null() {
        return Err(Status::INSUFFICIENT_RESOURCES);
    }
    // SAFETY: the memory is fresh, zeroed, aligned (asserted above), and zero bytes are a valid value.
    Ok(unsafe { Box::from_raw(memory) })
}

/// An empty vector with room for `capacity` items. IRQL <= DISPATCH_LEVEL.
///
/// # Errors
/// [`Status::INSUFFICIENT_RESOURCES`].
pub fn try_vec<T>(capacity: usize) -> Result<Vec<T>> {
    const { assert!(align_of::<T>() <= POOL_ALIGNMENT) }
    let mut vec = Vec::new();
    vec.try_reserve_exact(capacity).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
    Ok(vec)
}

/// Appends to a vector, growing it where needed. IRQL <= DISPATCH_LEVEL.
///
/// # Errors
/// [`Status::INSUFFICIENT_RESOURCES`]; the vector is unchanged.
pub fn try_push<T>(vec: &mut Vec<T>, value: T) -> Result {
    vec.try_reserve(1).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
    vec.push(value);
    Ok(())
}

/// A copy of `bytes` in nonpaged pool. IRQL <= DISPATCH_LEVEL.
///
/// # Errors
/// [`Status::INSUFFICIENT_RESOURCES`].
pub fn try_copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut vec = try_vec(bytes.len())?;
    vec.extend_from_slice(bytes);
    Ok(vec)
}

struct SharedInner<T> {
    count: AtomicUsize,
    value: T,
}

/// A counted reference, as `Arc` is, whose allocation can fail. References may be taken and dropped at
/// IRQL <= DISPATCH_LEVEL as far as dropping `T` may.
pub struct Shared<T> {
    inner: NonNull<SharedInner<T>>,
}

// SAFETY: as for Arc: the value is reached from several threads at once (Sync) and may be dropped by any (Send).
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: see above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The first reference to a new value. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`]; the value is dropped.
    pub fn new(value: T) -> Result<Self> {
        let inner = try_box(SharedInner { count: AtomicUsize::new(1), value })?;
        Ok(Self { inner: NonNull::from(Box::leak(inner)) })
    }

    /// Gives the reference away as a pointer; [`Shared::from_raw`] takes it back. Any IRQL.
    pub fn into_raw(self) -> *const T {
        let pointer = core::ptr::from_ref::<T>(&self);
        core::mem::forget(self);
        pointer
    }

    /// Takes back what [`Shared::into_raw`] gave away. Any IRQL.
    ///
    /// # Safety
    /// `pointer` came from `into_raw` of the same `T` and this reference was not taken back before.
    pub unsafe fn from_raw(pointer: *const T) -> Self {
        let offset = core::mem::offset_of!(SharedInner<T>, value);
        // SAFETY: the pointer is to the value inside a live SharedInner, as the caller says.
        let inner = unsafe { pointer.byte_sub(offset) }.cast::<SharedInner<T>>().cast_mut();
        // SAFETY: it came from a NonNull.
        Self { inner: unsafe { NonNull::new_unchecked(inner) } }
    }

    /// Whether both are references to the same value. Any IRQL.
    pub fn same(a: &Self, b: &Self) -> bool {
        a.inner == b.inner
    }

    fn inner(&self) -> &SharedInner<T> {
        // SAFETY: the inner value lives as long as a reference does.
        unsafe { self.inner.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // Relaxed is enough: the new reference is made from an existing one.
        self.inner().count.fetch_add(1, Ordering::Relaxed);
        Self { inner: self.inner }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if self.inner().count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: this was the last reference, and the memory came from a Box.
            drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
        }
    }
}
