using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// The slow side of memory accesses: TLB misses, accesses across pages, MMIO, pages with code, alignment checks, watched pages. Hits are in
/// <see cref="Access"/>.
/// </summary>
internal sealed unsafe class Mmu(Processor p)
{
    /// <summary>Host address of an instruction byte.</summary>
    public byte* Fetch(ulong linear)
    {
        ProcessorState* s = p.State;
        TlbEntry* e = Access.Entry(s, linear);
        if (e->ExecTag == ((linear & ~0xFFFul) | s->TlbContext)) return (byte*)linear + e->Addend;
        Part part = Locate(linear, 1, CurrentPrivilege | PageWalker.FetchAccess);
        // Without memory a fetch reads all ones, and FF FF is an invalid opcode.
        return part.Host != null ? part.Host : throw p.InvalidOpcode();
    }

    /// <summary>One page of an access: where its bytes are.</summary>
    private readonly ref struct Part
    {
        /// <summary>Host address of the first byte, or null for MMIO.</summary>
        public readonly byte* Host;
        public readonly ulong Physical;
        public readonly int Length;
        /// <summary>The access goes to the virtual APIC of a guest.</summary>
        public readonly bool IsVirtualApic;

        public Part(byte* host, ulong physical, int length, bool isVirtualApic = false)
        {
            Host = host;
            Physical = physical;
            Length = length;
            IsVirtualApic = isVirtualApic;
        }
    }

    public uint CurrentPrivilege => p.State->Cpl == 3 ? PageWalker.UserAccess : 0;

    public T ReadSlow<T>(ulong address) where T : unmanaged => TryReadSlow(address, out T value) ? value : throw p.Exits.Requested;

    /// <summary><see cref="ReadSlow{T}"/> for handlers that return <see cref="Exits.LeaveForExit"/> when this is false.</summary>
    public bool TryReadSlow<T>(ulong address, out T value) where T : unmanaged
    {
        T read;
        CheckAlignment<T>(address, PageWalker.ReadAccess);
        bool done = TryReadRange(address, (byte*)&read, sizeof(T), CurrentPrivilege);
        value = read;
        return done;
    }

    public void WriteSlow<T>(ulong address, T value) where T : unmanaged
    {
        CheckAlignment<T>(address, PageWalker.WriteAccess);
        WriteRange(address, (byte*)&value, sizeof(T), CurrentPrivilege);
    }

    public T ReadForWriteSlow<T>(ulong address) where T : unmanaged => TryReadForWriteSlow(address, out T value) ? value : throw p.Exits.Requested;

    /// <summary><see cref="ReadForWriteSlow{T}"/> for handlers that return <see cref="Exits.LeaveForExit"/> when this is false.</summary>
    public bool TryReadForWriteSlow<T>(ulong address, out T value) where T : unmanaged
    {
        T read;
        CheckAlignment<T>(address, PageWalker.WriteAccess);
        CheckRange(address, sizeof(T), CurrentPrivilege | PageWalker.WriteAccess);
        bool done = TryReadRange(address, (byte*)&read, sizeof(T), CurrentPrivilege | PageWalker.WriteAccess);
        value = read;
        return done;
    }

    /// <summary>Reads any number of bytes (1 to 4096) at a linear address with the current privilege; all of it is checked first.</summary>
    public void ReadBytes(ulong address, Span<byte> destination)
    {
        fixed (byte* to = destination) ReadRange(address, to, destination.Length, CurrentPrivilege);
    }

    /// <summary>Writes any number of bytes (1 to 4096); all pages are checked before the first byte is written.</summary>
    public void WriteBytes(ulong address, ReadOnlySpan<byte> source)
    {
        fixed (byte* from = source) WriteRange(address, from, source.Length, CurrentPrivilege);
    }

    /// <summary>Raises whatever a write of this range with the current privilege would raise, and nothing else.</summary>
    public void CheckWrite(ulong address, int length) => CheckRange(address, length, CurrentPrivilege | PageWalker.WriteAccess);

    /// <summary>Raises whatever a read of this range with the current privilege would raise, and nothing else.</summary>
    public void CheckRead(ulong address, int length) => CheckRange(address, length, CurrentPrivilege);

    /// <summary>Reads with supervisor privilege whatever CPL is: descriptor tables, TSS (implicit system access, SDM vol. 3A "Access Rights").</summary>
    public T ReadSystem<T>(ulong address) where T : unmanaged
    {
        TlbEntry* e = Access.Entry(p.State, address);
        if (e->ReadTag == Tlb.SystemTag(p.State, address, sizeof(T))) return Unsafe.ReadUnaligned<T>((byte*)address + e->Addend);
        T value;
        ReadRange(address, (byte*)&value, sizeof(T), PageWalker.ImplicitAccess);
        return value;
    }

    /// <summary>Writes with supervisor privilege whatever CPL is: accessed bits of descriptors, busy bit, TSS.</summary>
    public void WriteSystem<T>(ulong address, T value) where T : unmanaged
    {
        TlbEntry* e = Access.Entry(p.State, address);
        if (e->WriteTag == Tlb.SystemTag(p.State, address, sizeof(T))) Unsafe.WriteUnaligned((byte*)address + e->Addend, value);
        else WriteRange(address, (byte*)&value, sizeof(T), PageWalker.ImplicitAccess);
    }

    /// <summary>Raises what a supervisor access of this range would raise.</summary>
    public void CheckSystem(ulong address, int length, bool write) =>
        CheckRange(address, length, PageWalker.ImplicitAccess | (write ? PageWalker.WriteAccess : 0));

    private void ReadRange(ulong address, byte* destination, int length, uint access)
    {
        if (!TryReadRange(address, destination, length, access)) throw p.Exits.Requested;
    }

    /// <summary>False: an exit comes first, see <see cref="Mmio.TryRead"/>.</summary>
    private bool TryReadRange(ulong address, byte* destination, int length, uint access)
    {
        int first = (int)Math.Min(GuestMemory.PageSize - (address & 0xFFF), (ulong)length);
        ulong second = 0;
        if (first < length)
        {
            second = SecondPage(address, first, access);
            access |= PageWalker.InTwoPages;
        }
        Part a = Locate(address, first, access);
        if (first == length) return TryReadPart(a, destination);
        Part b = Locate(second, length - first, access);
        return TryReadPart(a, destination) && TryReadPart(b, destination + first);
    }

    private void WriteRange(ulong address, byte* source, int length, uint access)
    {
        access |= PageWalker.WriteAccess;
        int first = (int)Math.Min(GuestMemory.PageSize - (address & 0xFFF), (ulong)length);
        ulong second = 0;
        if (first < length)
        {
            second = SecondPage(address, first, access);
            access |= PageWalker.InTwoPages;
        }
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

    public void CheckRange(ulong address, int length, uint access)
    {
        int first = (int)Math.Min(GuestMemory.PageSize - (address & 0xFFF), (ulong)length);
        if (first == length)
        {
            _ = Locate(address, first, access);
            return;
        }
        ulong second = SecondPage(address, first, access);
        _ = Locate(address, first, access | PageWalker.InTwoPages);
        _ = Locate(second, length - first, access | PageWalker.InTwoPages);
    }

    public ulong Wrap(ulong address) => (p.State->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? address : address & 0xFFFF_FFFF;

    /// <summary>
    /// Linear address of the second page of an access. The whole operand must be canonical, or lie below 4 GiB, before anything of it is looked up in the page
    /// tables: to be called before the first page is.
    /// </summary>
    /// <exception cref="GuestFault">#GP(0) or #SS(0): the operand reaches beyond its half of the address space, or beyond its flat segment.</exception>
    private ulong SecondPage(ulong address, int first, uint access)
    {
        ulong next = address + (ulong)first;
        bool isImplicit = (access & PageWalker.ImplicitAccess) != 0;
        if ((p.State->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 || (isImplicit && CpuMode.IsLong(p.State)))
        {
            return p.IsCanonical(next) ? next : throw BeyondTheEdge(address, access);
        }
        if (next <= uint.MaxValue) return next;
        return isImplicit || p.Model.Behavior.FlatSegmentsWrap || !IsUncheckedFlatOperand() ? (uint)next : throw BeyondTheEdge(address, access);
    }

    /// <summary>
    /// The memory operand of the current instruction lies in a flat segment, so that nobody has looked at the limit. Where segmentation has checked an operand,
    /// it is the segment's base that makes a sum beyond 4 GiB, and the address wraps.
    /// </summary>
    private bool IsUncheckedFlatOperand()
    {
        Insn* i = p.State->Current;
        return (p.State->Mode & ModeKey.Flat) != 0 && i != null && (i->Flags & InsnFlags.HasMemory) != 0 && i->Base != RegisterOffsets.PreparedAddress
            && (InstructionTable.Get((Code)i->Code).Flags & Row.OwnSegmentation) == 0;
    }

    /// <summary>
    /// Raises what comes before any page fault of an operand of several fields that are accessed one by one: the operand reaches beyond the edge.
    /// </summary>
    /// <param name="address">Linear address of the first field.</param>
    public void CheckStructure(ulong address, int length)
    {
        int first = (int)Math.Min(GuestMemory.PageSize - (address & 0xFFF), (ulong)length);
        if (first < length) _ = SecondPage(address, first, PageWalker.ReadAccess);
    }

    /// <summary>
    /// #GP(0) or #SS(0) for an operand at <paramref name="address"/> that begins before the edge and ends beyond; or the page fault that comes before.
    /// </summary>
    private GuestFault BeyondTheEdge(ulong address, uint access)
    {
        int piece = FirstPiece();
        bool fits = piece > 0 && (address & 0xFFF) + (ulong)piece <= GuestMemory.PageSize;
        if (fits && (access & PageWalker.ImplicitAccess) == 0) _ = Locate(address, piece, CurrentPrivilege | (access & PageWalker.WriteAccess));
        return NonCanonical(access);
    }

    /// <summary>
    /// Bytes of the memory operand that are accessed before anything is known of the rest; 0: it is checked as a whole. See <see
    /// cref="VendorBehavior.StructuresInPieces"/>.
    /// </summary>
    public int FirstPiece()
    {
        if (p.State->Current == null || !p.Model.Behavior.StructuresInPieces) return 0;
        return ((Code)p.State->Current->Code).ToOpCode().MemorySize switch
        {
            MemorySize.SegPtr16 or MemorySize.FpuEnv14 or MemorySize.FpuState94 or MemorySize.Bound16_WordWord => 2,
            MemorySize.SegPtr32 or MemorySize.FpuEnv28 or MemorySize.FpuState108 or MemorySize.Bound32_DwordDword => 4,
            MemorySize.SegPtr64 => 8,
            _ => 0,
        };
    }

    /// <summary>Walks the tables for one page's part of an access, raises its faults, and fills the TLB.</summary>
    private Part Locate(ulong address, int length, uint access)
    {
        ProcessorState* s = p.State;
        bool code64 = (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        if (!code64 && (access & PageWalker.ImplicitAccess) == 0) address &= 0xFFFF_FFFF;
        if (!p.IsCanonical(address)) throw NonCanonical(access);
        if (p.Debug.WatchesData && (access & PageWalker.ImplicitAccess) == 0) p.Debug.DataAccess(address, length, (access & PageWalker.WriteAccess) != 0);
        bool watched = p.Debugger.WatchesPage(address) && (access & (PageWalker.ImplicitAccess | PageWalker.FetchAccess)) == 0;
        // Before the walk, which leaves its traces in the page tables.
        if (watched && p.Debugger.MustStepForAccess(address, length, (access & PageWalker.WriteAccess) != 0)) throw p.Exits.ExecuteAlone();
        CpuWork work = s->Work;
        s->Work = CpuWork.TlbMisses;
        WalkResult t = p.Walker.Walk(address, access);
        s->Work = work;
        if (t.Outcome == WalkOutcome.PageFault) throw PageFault(address, t.ErrorCode);
        if (t.Outcome == WalkOutcome.Refused) throw p.Exits.RefusedAccess(address, t.Refusal);
        if (watched) p.Debugger.NoteAccess(address, length, (access & PageWalker.WriteAccess) != 0);
        p.Tlb.CountMiss();
        ulong physical = t.Page | (address & 0xFFF);
        if (t.IsApicPage)
        {
            p.GuestMode.Apic!.Check((uint)address & 0xFFF, length, access, address, t.Page);
            return new Part(null, physical, length, isVirtualApic: true);
        }
        if (t.Host == null) return new Part(null, physical, length);
        if (p.WriteWatch.IsOn && (t.WriteReady || (access & PageWalker.WriteAccess) != 0)) p.WriteWatch.Note(t.Host, Access.Entry(s, address));
        if (p.Tlb.AllowsFills) p.Tlb.Fill(address, t, access);
        return new Part(t.Host + (address & 0xFFF), physical, length);
    }

    /// <summary>Host address of bytes in one page, or null for MMIO, after all checks.</summary>
    public byte* HostOf(ulong address, int length, uint access) => Locate(address, length, access).Host;

    private bool TryReadPart(Part part, byte* destination)
    {
        if (part.IsVirtualApic)
        {
            p.GuestMode.Apic!.Read((uint)part.Physical & 0xFFF, destination, part.Length);
            return true;
        }
        if (part.Host == null) return p.Mmio.TryRead(part.Physical, destination, part.Length);
        Copy(destination, part.Host, part.Length);
        return true;
    }

    private void WritePart(Part part, byte* source)
    {
        if (part.IsVirtualApic)
        {
            p.GuestMode.Apic!.Write((uint)part.Physical & 0xFFF, source, part.Length);
            return;
        }
        if (part.Host == null)
        {
            p.Mmio.Post(part.Physical, source, part.Length);
            return;
        }
        Copy(part.Host, source, part.Length);
        p.Code.AfterWrite(part.Host, part.Length);
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
        p.Fault((access & PageWalker.ImplicitAccess) == 0 && p.State->Current != null
            && (p.State->Current->Flags & InsnFlags.StackSegment) != 0 ? Vector.Ss : Vector.Gp, 0);

    /// <summary>CR2 before the last page fault came up: an exception that is intercepted leaves the register alone.</summary>
    public ulong Cr2BeforeFault { get; private set; }

    /// <summary>A page fault comes up at a linear address.</summary>
    public void SetCr2(ulong address)
    {
        Cr2BeforeFault = p.State->Cr2;
        p.State->Cr2 = address;
    }

    /// <summary>#PF with CR2 set.</summary>
    private GuestFault PageFault(ulong address, uint error)
    {
        SetCr2(address);
        return p.Fault(Vector.Pf, error);
    }

    /// <summary>#AC(0): SDM vol. 3A "Alignment Checking"; a page fault of the same access comes first.</summary>
    public void CheckAlignment<T>(ulong address, uint access) where T : unmanaged
    {
        if (!p.Tlb.ChecksAlignment || (address & (ulong)(sizeof(T) - 1)) == 0) return;
        CheckRange(address, sizeof(T), CurrentPrivilege | access);
        throw p.Fault(Vector.Ac, 0);
    }
}
