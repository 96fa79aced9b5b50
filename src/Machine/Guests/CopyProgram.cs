using System.Buffers.Binary;
using System.Security.Cryptography;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Machine;

/// <summary>
/// A program for Linux that makes a copy of a guest differ from the others: each time that it reads the time of day and random numbers from its standard input,
/// it sets the clock, has the kernel's random number generator begin anew with them, and then writes a line end to its standard output. A device's
/// notification (<see cref="Acpi.VmGeneration"/>) does part of it too, but nobody can wait for that, and Debian's kernel for virtual machines has no driver for
/// it.
/// </summary>
/// <remarks>
/// Linux manual page random(4), "/dev/random interface": RNDADDENTROPY takes a struct rand_pool_info, RNDRESEEDCRNG applies what came at once.
/// Executable and Linkable Format (ELF), Portable Formats Specification 1.1, with 64-bit headers.
/// </remarks>
internal static class CopyProgram
{
    private const int SeedLength = 32, SecondsAt = 0, NanosecondsAt = 8, PoolInfo = 16, SeedAt = PoolInfo + 8, InputLength = SeedAt + SeedLength;
    private const ulong Address = 0x40_0000, Headers = 0x78;

    // Linux, arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/linux/random.h.
    private const int Read = 0, Write = 1, Open = 2, Ioctl = 16, Exit = 60, ClockSetTime = 227;
    private const int AddEntropy = 0x4008_5203, ReseedCrng = 0x5207;

    /// <summary>What the program reads: a struct timespec, and a struct rand_pool_info with random numbers that nobody else has.</summary>
    /// <param name="time">What the clock is set to, from 1970 on.</param>
    public static byte[] Input(DateTimeOffset time)
    {
        byte[] input = new byte[InputLength];
        long ticks = (time - DateTimeOffset.UnixEpoch).Ticks;
        BinaryPrimitives.WriteInt64LittleEndian(input.AsSpan(SecondsAt), ticks / TimeSpan.TicksPerSecond);
        BinaryPrimitives.WriteInt64LittleEndian(input.AsSpan(NanosecondsAt), ticks % TimeSpan.TicksPerSecond * TimeSpan.NanosecondsPerTick);
        BinaryPrimitives.WriteInt32LittleEndian(input.AsSpan(PoolInfo), SeedLength * 8);
        BinaryPrimitives.WriteInt32LittleEndian(input.AsSpan(PoolInfo + 4), SeedLength);
        RandomNumberGenerator.Fill(input.AsSpan(SeedAt));
        return input;
    }

    /// <summary>The executable file.</summary>
    public static byte[] Build()
    {
        byte[] code = Assemble();
        var file = new MemoryStream();
        var w = new BinaryWriter(file);
        w.Write([0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // 64 bits, little-endian
        w.Write((ushort)2); // ET_EXEC
        w.Write((ushort)62); // EM_X86_64
        w.Write(1);
        w.Write(Address + Headers); // entry
        w.Write(0x40L); // program headers
        w.Write(0L);
        w.Write(0);
        foreach (ushort value in (ushort[])[0x40, 0x38, 1, 0, 0, 0]) w.Write(value); // sizes and numbers of headers
        w.Write(1); // PT_LOAD
        w.Write(5); // read, execute
        w.Write(0L);
        w.Write(Address);
        w.Write(Address);
        w.Write(Headers + (ulong)code.Length);
        w.Write(Headers + (ulong)code.Length);
        w.Write(0x1000L);
        w.Write(code);
        w.Flush();
        return file.ToArray();
    }

    private static byte[] Assemble()
    {
        var c = new Assembler(64);
        Label again = c.CreateLabel("again"), end = c.CreateLabel("end"), device = c.CreateLabel("device"), line = c.CreateLabel("line");
        c.sub(rsp, InputLength);
        c.lea(rdi, __[device]);
        c.mov(esi, 1); // O_WRONLY
        Call(Open);
        c.mov(ebx, eax);
        c.Label(ref again);
        c.xor(edi, edi);
        c.mov(rsi, rsp);
        c.mov(edx, InputLength);
        Call(Read);
        c.cmp(eax, InputLength);
        c.jne(end);
        c.xor(edi, edi); // CLOCK_REALTIME
        c.mov(rsi, rsp);
        Call(ClockSetTime);
        c.mov(edi, ebx);
        c.mov(esi, AddEntropy);
        c.lea(rdx, __[rsp + PoolInfo]);
        Call(Ioctl);
        c.mov(edi, ebx);
        c.mov(esi, ReseedCrng);
        c.xor(edx, edx);
        Call(Ioctl);
        c.mov(edi, 1);
        c.lea(rsi, __[line]);
        c.mov(edx, 1);
        Call(Write);
        c.jmp(again);
        c.Label(ref end);
        c.xor(edi, edi);
        Call(Exit);
        c.Label(ref device);
        c.db("/dev/urandom\0"u8.ToArray());
        c.Label(ref line);
        c.db((byte)'\n');
        using var code = new MemoryStream();
        c.Assemble(new StreamCodeWriter(code), Address + Headers);
        return code.ToArray();

        void Call(int number)
        {
            c.mov(eax, number);
            c.syscall();
        }
    }
}
