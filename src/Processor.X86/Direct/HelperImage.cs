using System.Buffers.Binary;
using Bunraku.Platform;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Processor.X86;

/// <summary>One system call that a helper is made to execute: its number and six arguments, as the routine in the image reads them.</summary>
internal struct HelperCall
{
    public ulong Number, Argument0, Argument1, Argument2, Argument3, Argument4, Argument5;
}

/// <summary>
/// What a helper process consists of beside guest memory: an ELF file of one page, from which it begins and which it gives up, a page of code that executes
/// system calls from a table, and the table.
/// </summary>
/// <remarks>
/// The code and the table lie where the guest has nothing. Guest code that jumps there executes system call instructions, which the host does not carry out
/// while guest code runs; and it cannot write there.
/// </remarks>
internal sealed unsafe class HelperImage : IDisposable
{
    private const ulong LoadAddress = 0x1_0000, PageSize = 0x1000;
    private const int HeaderLength = 64, SegmentLength = 56;
    /// <summary>Where the parts lie in the file.</summary>
    private const ulong Routines = PageSize, Table = 2 * PageSize;
    private const ulong TablePages = 4;
    private const int FilterRoom = 256;

    /// <summary>Bytes of routines and table together.</summary>
    private const ulong Length = (1 + TablePages) * PageSize;

    /// <summary>
    /// Where routines and table lie in the helper: somewhere far from where Linux puts programs, libraries and stacks. Programs cannot know where.
    /// </summary>
    public readonly ulong Address = 0x1000_0000_0000 + ((ulong)Random.Shared.NextInt64(1L << 33) << 12);

    /// <summary>First byte behind.</summary>
    public ulong End => Address + Length;

    /// <summary>Calls that the table has room for.</summary>
    public static readonly int MostCalls = (int)(TablePages * PageSize - FilterRoom) / sizeof(HelperCall);

    public readonly SharedBytes Bytes = new((2 + TablePages) * PageSize);

    /// <summary>In the program that the helper begins with: a system call and a breakpoint behind it.</summary>
    public readonly ulong FirstSystemCall;

    /// <summary>In the routines: the instruction that makes system calls.</summary>
    public readonly ulong SystemCallAddress;

    public HelperImage()
    {
        byte[] program = Assemble(LoadAddress + HeaderLength + SegmentLength, a =>
        {
            a.mov(eax, (int)SystemCall.Ptrace);
            a.xor(edi, edi); // PTRACE_TRACEME
            a.xor(esi, esi);
            a.xor(edx, edx);
            a.xor(r10d, r10d);
            a.syscall();
            a.int3();
            a.syscall();
            a.int3();
        });
        FirstSystemCall = LoadAddress + HeaderLength + SegmentLength + (ulong)program.Length - 3;
        var file = new Span<byte>(Bytes.Pointer, (int)PageSize);
        WriteHeader(file, program.Length);
        program.CopyTo(file[(HeaderLength + SegmentLength)..]);
        byte[] routine = Assemble(Address, a =>
        {
            Label next = a.CreateLabel(), failed = a.CreateLabel();
            a.xor(eax, eax);
            SetRights();
            a.Label(ref next);
            a.mov(rax, __[r12]);
            a.mov(rdi, __[r12 + 8]);
            a.mov(rsi, __[r12 + 16]);
            a.mov(rdx, __[r12 + 24]);
            a.mov(r10, __[r12 + 32]);
            a.mov(r8, __[r12 + 40]);
            a.mov(r9, __[r12 + 48]);
            a.syscall();
            a.cmp(rax, -4096);
            a.ja(failed);
            a.add(r12, sizeof(HelperCall));
            a.dec(r13);
            a.jne(next);
            a.mov(rbx, rax); // the last one's result
            a.mov(eax, r14d);
            SetRights();
            a.int3();
            a.Label(ref failed);
            a.ud2();

            // Where protection keys hide the table (R15 tells), the right to it is taken, and given back: PKRU becomes EAX.
            void SetRights()
            {
                Label behind = a.CreateLabel();
                a.test(r15d, r15d);
                a.je(behind);
                a.xor(ecx, ecx);
                a.xor(edx, edx);
                a.wrpkru();
                a.Label(ref behind);
                a.nop(); // two labels cannot be at one place
            }
        });
        routine.CopyTo(new Span<byte>(Bytes.Pointer + Routines, (int)PageSize));
        SystemCallAddress = Address + (ulong)routine.AsSpan().IndexOf((ReadOnlySpan<byte>)[0x0F, 0x05]);
    }

    /// <summary>Address of the table in the helper.</summary>
    public ulong TableAddress => Address + PageSize;

    /// <summary>The table here.</summary>
    public Span<HelperCall> Calls => new(Bytes.Pointer + Table, MostCalls);

    /// <summary>Room behind the table, and where the helper finds it.</summary>
    public Span<byte> Filter => new(Bytes.Pointer + Table + (TablePages * PageSize - FilterRoom), FilterRoom);

    /// <inheritdoc cref="Filter"/>
    public ulong FilterAddress => End - FilterRoom;

    /// <summary>Maps routines and table into the helper, each by one call.</summary>
    public HelperCall MapRoutines(int descriptor) => Map(Address, PageSize, HelperProtection.Read | HelperProtection.Execute, descriptor, Routines);

    /// <inheritdoc cref="MapRoutines"/>
    public HelperCall MapTable(int descriptor) => Map(TableAddress, TablePages * PageSize, HelperProtection.Read, descriptor, Table);

    /// <summary>mmap of part of a file, in place of what is there.</summary>
    public static HelperCall Map(ulong address, ulong length, HelperProtection protection, int descriptor, ulong offset)
    {
        const ulong sharedFixed = 0x11, populate = 0x8000;
        return new HelperCall
        {
            Number = (ulong)SystemCall.Mmap,
            Argument0 = address,
            Argument1 = length,
            Argument2 = (ulong)protection,
            Argument3 = sharedFixed | populate,
            Argument4 = (ulong)descriptor,
            Argument5 = offset,
        };
    }

    /// <summary>The calls after which nothing but routines and table is mapped.</summary>
    public IEnumerable<HelperCall> UnmapAll() => [Unmap(0, Address), Unmap(End, DirectHelper.AddressEnd - End)];

    public static HelperCall Unmap(ulong address, ulong length) =>
        new() { Number = (ulong)SystemCall.Munmap, Argument0 = address, Argument1 = length };

    /// <summary>System V ABI, "Object Files"; ELF-64: an executable of one segment that may be read and executed.</summary>
    private static void WriteHeader(Span<byte> file, int programLength)
    {
        ((ReadOnlySpan<byte>)[0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1]).CopyTo(file);
        BinaryPrimitives.WriteUInt16LittleEndian(file[16..], 2); // ET_EXEC
        BinaryPrimitives.WriteUInt16LittleEndian(file[18..], 62); // EM_X86_64
        BinaryPrimitives.WriteUInt32LittleEndian(file[20..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(file[24..], LoadAddress + HeaderLength + SegmentLength); // entry
        BinaryPrimitives.WriteUInt64LittleEndian(file[32..], HeaderLength); // where the segment is described
        BinaryPrimitives.WriteUInt16LittleEndian(file[52..], HeaderLength);
        BinaryPrimitives.WriteUInt16LittleEndian(file[54..], SegmentLength);
        BinaryPrimitives.WriteUInt16LittleEndian(file[56..], 1);
        Span<byte> segment = file[HeaderLength..];
        BinaryPrimitives.WriteUInt32LittleEndian(segment, 1); // PT_LOAD
        BinaryPrimitives.WriteUInt32LittleEndian(segment[4..], 5); // PF_R | PF_X
        BinaryPrimitives.WriteUInt64LittleEndian(segment[16..], LoadAddress);
        BinaryPrimitives.WriteUInt64LittleEndian(segment[24..], LoadAddress);
        ulong length = (ulong)(HeaderLength + SegmentLength + programLength);
        BinaryPrimitives.WriteUInt64LittleEndian(segment[32..], length);
        BinaryPrimitives.WriteUInt64LittleEndian(segment[40..], length);
        BinaryPrimitives.WriteUInt64LittleEndian(segment[48..], PageSize);
    }

    /// <summary>The instructions for this address.</summary>
    public static byte[] Assemble(ulong address, Action<Assembler> write)
    {
        var assembler = new Assembler(64);
        write(assembler);
        using var bytes = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(bytes), address);
        return bytes.ToArray();
    }

    public void Dispose() => Bytes.Dispose();
}

/// <summary>PROT_READ, PROT_WRITE, PROT_EXEC.</summary>
[Flags]
internal enum HelperProtection : byte
{
    None = 0,
    Read = 1,
    Write = 2,
    Execute = 4,
}

/// <summary>Numbers of the host's system calls: arch/x86/entry/syscalls/syscall_64.tbl.</summary>
internal enum SystemCall : ulong
{
    Mmap = 9,
    Munmap = 11,
    Ptrace = 101,
    Prctl = 157,
    ArchPrctl = 158,
    Setrlimit = 160,
    Seccomp = 317,
    PkeyMprotect = 329,
    PkeyAlloc = 330,
    CloseRange = 436,
}
