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
/// </remarks>
internal static class CopyProgram
{
    private const int SeedLength = 32, SecondsAt = 0, NanosecondsAt = 8, PoolInfo = 16, SeedAt = PoolInfo + 8, InputLength = SeedAt + SeedLength;

    // Linux, include/uapi/linux/random.h.
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
        var c = new Assembler(64);
        Label again = c.CreateLabel("again"), end = c.CreateLabel("end"), device = c.CreateLabel("device"), line = c.CreateLabel("line");
        c.sub(rsp, InputLength);
        c.lea(rdi, __[device]);
        c.mov(esi, 1); // O_WRONLY
        c.Call(SmallProgram.Open);
        c.mov(ebx, eax);
        c.Label(ref again);
        c.xor(edi, edi);
        c.mov(rsi, rsp);
        c.mov(edx, InputLength);
        c.Call(SmallProgram.Read);
        c.cmp(eax, InputLength);
        c.jne(end);
        c.xor(edi, edi); // CLOCK_REALTIME
        c.mov(rsi, rsp);
        c.Call(SmallProgram.ClockSetTime);
        c.mov(edi, ebx);
        c.mov(esi, AddEntropy);
        c.lea(rdx, __[rsp + PoolInfo]);
        c.Call(SmallProgram.Ioctl);
        c.mov(edi, ebx);
        c.mov(esi, ReseedCrng);
        c.xor(edx, edx);
        c.Call(SmallProgram.Ioctl);
        c.mov(edi, 1);
        c.lea(rsi, __[line]);
        c.mov(edx, 1);
        c.Call(SmallProgram.Write);
        c.jmp(again);
        c.Label(ref end);
        c.xor(edi, edi);
        c.Call(SmallProgram.Exit);
        c.Label(ref device);
        c.db("/dev/urandom\0"u8.ToArray());
        c.Label(ref line);
        c.db((byte)'\n');
        return SmallProgram.Link(c);
    }
}
