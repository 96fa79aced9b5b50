using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>The slow side of memory operands: TLB fill, accesses across pages, MMIO, code pages, alignment checks, watched pages.</summary>
public sealed unsafe partial class Processor
{
    /// <summary>One page of an access: where its bytes are.</summary>
    private readonly ref struct Part
    {
        /// <summary>Host address of the first byte, or null for MMIO.</summary>
        public readonly byte* Host;
        public readonly ulong Physical;
        public readonly int Length;

        public Part(byte* host, ulong physical, int length)
        {
            Host = host;
            Physical = physical;
            Length = length;
        }
    }

    private uint CurrentPrivilege => State->Cpl == 3 ? UserAccess : 0;

    internal T ReadSlow<T>(ulong address) where T : unmanaged => TryReadSlow(address, out T value) ? value : throw ExitRequested;

    /// <summary><see cref="ReadSlow{T}"/> for handlers that return <see cref="LeaveForExit"/> when this is false.</summary>
    internal bool TryReadSlow<T>(ulong address, out T value) where T : unmanaged
    {
        T read;
        CheckAlignment<T>(address, ReadAccess);
        bool done = TryReadRange(address, (byte*)&read, sizeof(T), CurrentPrivilege);
        value = read;
        return done;
    }

    internal void WriteSlow<T>(ulong address, T value) where T : unmanaged
    {
        CheckAlignment<T>(address, WriteAccess);
        WriteRange(address, (byte*)&value, sizeof(T), CurrentPrivilege);
    }

    internal T ReadForWriteSlow<T>(ulong address) where T : unmanaged => TryReadForWriteSlow(address, out T value) ? value : throw ExitRequested;

    /// <summary><see cref="ReadForWriteSlow{T}"/> for handlers that return <see cref="LeaveForExit"/> when this is false.</summary>
    internal bool TryReadForWriteSlow<T>(ulong address, out T value) where T : unmanaged
    {
        T read;
        CheckAlignment<T>(address, WriteAccess);
        CheckRange(address, sizeof(T), CurrentPrivilege | WriteAccess);
        bool done = TryReadRange(address, (byte*)&read, sizeof(T), CurrentPrivilege | WriteAccess);
        value = read;
        return done;
    }

    /// <summary>Reads any number of bytes (1 to 4096) at a linear address with the current privilege; all of it is checked first.</summary>
    internal void ReadBytes(ulong address, Span<byte> destination)
    {
        fixed (byte* p = destination) ReadRange(address, p, destination.Length, CurrentPrivilege);
    }

    /// <summary>Writes any number of bytes (1 to 4096); all pages are checked before the first byte is written.</summary>
    internal void WriteBytes(ulong address, ReadOnlySpan<byte> source)
    {
        fixed (byte* p = source) WriteRange(address, p, source.Length, CurrentPrivilege);
    }

    /// <summary>Raises whatever a write of this range with the current privilege would raise, and nothing else.</summary>
    internal void CheckWrite(ulong address, int length) => CheckRange(address, length, CurrentPrivilege | WriteAccess);

    /// <summary>Raises whatever a read of this range with the current privilege would raise, and nothing else.</summary>
    internal void CheckRead(ulong address, int length) => CheckRange(address, length, CurrentPrivilege);

    /// <summary>Reads with supervisor privilege whatever CPL is: descriptor tables, TSS (implicit system access, SDM vol. 3A "Access Rights").</summary>
    internal T ReadSystem<T>(ulong address) where T : unmanaged
    {
        T value;
        ReadRange(address, (byte*)&value, sizeof(T), ImplicitAccess);
        return value;
    }

    /// <summary>Writes with supervisor privilege whatever CPL is: accessed bits of descriptors, busy bit, TSS.</summary>
    internal void WriteSystem<T>(ulong address, T value) where T : unmanaged => WriteRange(address, (byte*)&value, sizeof(T), ImplicitAccess);

    /// <summary>Raises what a supervisor access of this range would raise.</summary>
    internal void CheckSystem(ulong address, int length, bool write) => CheckRange(address, length, ImplicitAccess | (write ? WriteAccess : 0));

    /// <summary>
    /// Accesses memory with supervisor privilege on behalf of an event delivery that switches to CPL 0 to 2 before CPL is updated: explicit
    /// supervisor writes to the new stack.
    /// </summary>
    internal void WriteStack<T>(ulong address, T value, int cpl) where T : unmanaged => WriteRange(address, (byte*)&value, sizeof(T), cpl == 3 ? UserAccess : 0);

    private void ReadRange(ulong address, byte* destination, int length, uint access)
    {
        if (!TryReadRange(address, destination, length, access)) throw ExitRequested;
    }

    /// <summary>False: an exit comes first, see <see cref="TryReadMmio"/>.</summary>
    private bool TryReadRange(ulong address, byte* destination, int length, uint access)
    {
        int first = (int)Math.Min(0x1000 - (address & 0xFFF), (ulong)length);
        ulong second = first < length ? SecondPage(address, first, access) : 0;
        Part a = Locate(address, first, access);
        if (first == length) return TryReadPart(a, destination);
        Part b = Locate(second, length - first, access);
        return TryReadPart(a, destination) && TryReadPart(b, destination + first);
    }

    private void WriteRange(ulong address, byte* source, int length, uint access)
    {
        access |= WriteAccess;
        int first = (int)Math.Min(0x1000 - (address & 0xFFF), (ulong)length);
        ulong second = first < length ? SecondPage(address, first, access) : 0;
        Part a = Locate(address, first, access);
        if (first == length)
        {
            WritePart(a, source);
            return;
        }
        Part b = Locate(second, length - first, access);
        WritePart(a, source);
        WritePart(b, source + first);
    }

    private void CheckRange(ulong address, int length, uint access)
    {
        int first = (int)Math.Min(0x1000 - (address & 0xFFF), (ulong)length);
        ulong second = first < length ? SecondPage(address, first, access) : 0;
        _ = Locate(address, first, access);
        if (first < length) _ = Locate(second, length - first, access);
    }

    private ulong Wrap(ulong address) => (State->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? address : address & 0xFFFF_FFFF;

    /// <summary>
    /// Linear address of the second page of an access. The whole operand must be canonical, or lie below 4 GiB, before anything of it is looked up in the page
    /// tables: to be called before the first page is.
    /// </summary>
    /// <exception cref="GuestFault">#GP(0) or #SS(0): the operand reaches beyond its half of the address space, or beyond its flat segment.</exception>
    private ulong SecondPage(ulong address, int first, uint access)
    {
        ulong next = address + (ulong)first;
        bool isImplicit = (access & ImplicitAccess) != 0;
        if ((State->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 || (isImplicit && IsLongMode(State)))
        {
            return IsCanonical(next) ? next : throw BeyondTheEdge(address, access);
        }
        if (next <= uint.MaxValue) return next;
        return isImplicit || Model.Behavior.FlatSegmentsWrap || !IsUncheckedFlatOperand() ? (uint)next : throw BeyondTheEdge(address, access);
    }

    /// <summary>
    /// The memory operand of the current instruction lies in a flat segment, so that nobody has looked at the limit. Where segmentation has checked an operand,
    /// it is the segment's base that makes a sum beyond 4 GiB, and the address wraps.
    /// </summary>
    private bool IsUncheckedFlatOperand()
    {
        Insn* i = State->Current;
        return (State->Mode & ModeKey.Flat) != 0 && i != null && (i->Flags & InsnFlags.HasMemory) != 0 && i->Base != RegisterOffsets.PreparedAddress
            && (InstructionTable.Get((Code)i->Code).Flags & Row.OwnSegmentation) == 0;
    }

    /// <summary>
    /// Raises what comes before any page fault of an operand of several fields that are accessed one by one: the operand reaches beyond the edge.
    /// </summary>
    /// <param name="address">Linear address of the first field.</param>
    internal void CheckStructure(ulong address, int length)
    {
        int first = (int)Math.Min(0x1000 - (address & 0xFFF), (ulong)length);
        if (first < length) _ = SecondPage(address, first, ReadAccess);
    }

    /// <summary>
    /// #GP(0) or #SS(0) for an operand at <paramref name="address"/> that begins before the edge and ends beyond; or the page fault that comes before.
    /// </summary>
    private GuestFault BeyondTheEdge(ulong address, uint access)
    {
        int piece = FirstPiece();
        bool fits = piece > 0 && (address & 0xFFF) + (ulong)piece <= 0x1000;
        if (fits && (access & ImplicitAccess) == 0) _ = Locate(address, piece, CurrentPrivilege | (access & WriteAccess));
        return NonCanonical(access);
    }

    /// <summary>
    /// Bytes of the memory operand that are accessed before anything is known of the rest; 0: it is checked as a whole. See <see
    /// cref="VendorBehavior.StructuresInPieces"/>.
    /// </summary>
    private int FirstPiece()
    {
        if (State->Current == null || !Model.Behavior.StructuresInPieces) return 0;
        return ((Code)State->Current->Code).ToOpCode().MemorySize switch
        {
            MemorySize.SegPtr16 or MemorySize.FpuEnv14 or MemorySize.FpuState94 or MemorySize.Bound16_WordWord => 2,
            MemorySize.SegPtr32 or MemorySize.FpuEnv28 or MemorySize.FpuState108 or MemorySize.Bound32_DwordDword => 4,
            MemorySize.SegPtr64 => 8,
            _ => 0,
        };
    }

    /// <summary>Translates one page's part of an access, raises its faults, and fills the TLB.</summary>
    private Part Locate(ulong address, int length, uint access)
    {
        ProcessorState* s = State;
        bool code64 = (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        if (!code64 && (access & ImplicitAccess) == 0) address &= 0xFFFF_FFFF;
        if (!IsCanonical(address)) throw NonCanonical(access);
        if (_dataBreakpoints && (access & ImplicitAccess) == 0) DataAccess(address, length, (access & WriteAccess) != 0);
        WalkResult t = Walk(address, access);
        if (t.Outcome == WalkOutcome.PageFault) throw PageFault(address, t.ErrorCode);
        if (t.Outcome == WalkOutcome.Refused) throw RefusedAccess(address, t.Refusal);
        TlbMisses++;
        ulong physical = t.Page | (address & 0xFFF);
        if (t.Host == null) return new Part(null, physical, length);
        if (_beforeWrite != null && (t.WriteReady || (access & WriteAccess) != 0)) NoteWrite(t.Host, Access.Entry(s, address));
        if ((access & ImplicitAccess) == 0 && _fillAllowed) Fill(address, t, access);
        return new Part(t.Host + (address & 0xFFF), physical, length);
    }

    private void Fill(ulong address, in WalkResult t, uint access)
    {
        byte* page = t.Host;
        ProcessorState* s = State;
        // A stack push during event delivery runs with another privilege than the context says.
        if (((access & UserAccess) != 0) != (s->Cpl == 3)) return;
        NoteLarge(address, t.Large);
        Memory.Backing.Enlarge(page);
        TlbEntry* e = Access.Entry(s, address);
        ulong tag = (address & ~0xFFFul) | s->TlbContext;
        if (e->ReadTag != tag && e->WriteTag != tag && e->ExecTag != tag) e->ReadTag = e->WriteTag = e->ExecTag = TlbEmpty;
        e->Addend = (nint)page - (nint)(address & ~0xFFFul);
        if ((access & FetchAccess) != 0)
        {
            e->ExecTag = tag;
            return;
        }
        e->ReadTag = t.ReadReady ? tag : TlbEmpty;
        e->WriteTag = t.WriteReady && !IsCodePage(page) ? tag : TlbEmpty;
    }

    private bool TryReadPart(Part part, byte* destination)
    {
        if (part.Host == null) return TryReadMmio(part.Physical, destination, part.Length);
        Copy(destination, part.Host, part.Length);
        return true;
    }

    private void WritePart(Part part, byte* source)
    {
        if (part.Host == null)
        {
            PostMmio(part.Physical, source, part.Length);
            return;
        }
        Copy(part.Host, source, part.Length);
        AfterWrite(part.Host, part.Length);
    }

    /// <summary>
    /// An operand of a usual size is read and written in one access: it must not tear, and a byte that another vCPU may have changed in between must not be
    /// written twice, as block copies do. Intel SDM vol. 3A, "Guaranteed Atomic Operations".
    /// </summary>
    private static void Copy(byte* destination, byte* source, int length)
    {
        switch (length)
        {
            case 1:
                *destination = *source;
                break;
            case 2:
                Unsafe.WriteUnaligned(destination, Unsafe.ReadUnaligned<ushort>(source));
                break;
            case 4:
                Unsafe.WriteUnaligned(destination, Unsafe.ReadUnaligned<uint>(source));
                break;
            case 8:
                Unsafe.WriteUnaligned(destination, Unsafe.ReadUnaligned<ulong>(source));
                break;
            case 16:
                Vector128.Load(source).Store(destination);
                break;
            case 32:
                Vector256.Load(source).Store(destination);
                break;
            default:
                Unsafe.CopyBlockUnaligned(destination, source, (uint)length);
                break;
        }
    }

    /// <summary>
    /// #GP(0), or #SS(0) for a stack segment operand of the current instruction: it is not canonical, or beyond 4 GiB. Tables and task states never lie in SS.
    /// </summary>
    private GuestFault NonCanonical(uint access) =>
        Fault((access & ImplicitAccess) == 0 && State->Current != null && (State->Current->Flags & InsnFlags.StackSegment) != 0 ? Vector.Ss : Vector.Gp, 0);

    /// <summary>#PF with CR2 set.</summary>
    private GuestFault PageFault(ulong address, uint error)
    {
        State->Cr2 = address;
        return Fault(Vector.Pf, error);
    }

    /// <summary>
    /// An access that the second stage refuses: the exit before it has had any effect. MMIO writes of earlier instructions exit first, and the instruction starts anew.
    /// </summary>
    private ExitRequest RefusedAccess(ulong linear, in Refusal refusal)
    {
        if (_posted.Count > 0) return ExitRequested;
        Exit.Reason = ExitReason.EptViolation;
        Exit.Address = refusal.Physical | (refusal.IsTableAccess ? 0 : linear & 0xFFF);
        Exit.IsWrite = (refusal.Wanted & PageRights.Write) != 0;
        Exit.Violation = new PageViolation(refusal.Wanted, linear, refusal.IsTableAccess);
        Exit.Vectoring = _vectoring;
        _accessRefused = true;
        return ExitRequested;
    }

    private bool _accessRefused; // Exit is a refused access

    /// <summary>#AC(0): SDM vol. 3A "Alignment Checking"; a page fault of the same access comes first.</summary>
    private void CheckAlignment<T>(ulong address, uint access) where T : unmanaged
    {
        if (!_alignmentChecks || (address & (ulong)(sizeof(T) - 1)) == 0) return;
        CheckRange(address, sizeof(T), CurrentPrivilege | access);
        throw Fault(Vector.Ac, 0);
    }
}
